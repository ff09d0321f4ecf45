"""The tasks of VTAB-1k: one canonical name each and the others in use, and how many images and classes there are."""

from __future__ import annotations

from dataclasses import dataclass

from peftbench.common.errors import UserError, nearest

GROUPS = {
    "natural": ("cifar", "caltech101", "dtd", "oxford_flowers102", "oxford_iiit_pet", "svhn", "sun397"),
    "specialized": ("patch_camelyon", "eurosat", "resisc45", "diabetic_retinopathy"),
    "structured": (
        "clevr_count",
        "clevr_dist",
        "dmlab",
        "kitti",
        "dsprites_loc",
        "dsprites_ori",
        "smallnorb_azi",
        "smallnorb_ele",
    ),
}
ALIASES = {
    "cifar100": "cifar",
    "cifar_100": "cifar",
    "flowers": "oxford_flowers102",
    "flowers102": "oxford_flowers102",
    "flower102": "oxford_flowers102",
    "oxford_flowers": "oxford_flowers102",
    "pet": "oxford_iiit_pet",
    "pets": "oxford_iiit_pet",
    "oxford_pet": "oxford_iiit_pet",
    "oxford_pets": "oxford_iiit_pet",
    "sun": "sun397",
    "camelyon": "patch_camelyon",
    "pcam": "patch_camelyon",
    "retinopathy": "diabetic_retinopathy",
    "clevr_count_all": "clevr_count",
    "clevr_distance": "clevr_dist",
    "clevr_closest_object_distance": "clevr_dist",
    "kitti_distance": "kitti",
    "kitti_closest_vehicle_distance": "kitti",
    "dsprites_position": "dsprites_loc",
    "dsprites_location": "dsprites_loc",
    "dsprites_orientation": "dsprites_ori",
    "smallnorb_azimuth": "smallnorb_azi",
    "smallnorb_elevation": "smallnorb_ele",
}


@dataclass(frozen=True)
class Task:
    """What a task holds, as the published protocol has it (the tests of task_adaptation).

    Attributes:
        classes: labels are 0 to classes - 1.
        test: sizes of the test set; Caltech-101's copies differ by one image.
        pools: how many images `train800` and `val200` are drawn from.
        each: test images of every class, where all classes have as many.
        twins: why the source itself holds some pictures twice, where it is known to.
    """

    classes: int
    test: tuple[int, ...]
    pools: tuple[int, int]
    each: int | None = None
    twins: str = ""


_TURNED = "an orientation of 0 and one of 360 degrees are the same picture"
_COPIES = "the source holds some pictures more than once"
TASKS = {
    "cifar": Task(100, (10_000,), (45_000, 5_000), each=100, twins=_COPIES),
    "caltech101": Task(102, (6_084, 6_085), (2_754, 306)),
    "dtd": Task(47, (1_880,), (1_880, 1_880), each=40),
    "oxford_flowers102": Task(102, (6_149,), (1_020, 1_020)),
    "oxford_iiit_pet": Task(37, (3_669,), (2_944, 736), twins=_COPIES),
    "svhn": Task(10, (26_032,), (65_931, 7_326)),
    "sun397": Task(397, (21_750,), (76_127, 10_875)),
    "patch_camelyon": Task(2, (32_768,), (262_144, 32_768), twins=_COPIES),
    "eurosat": Task(10, (5_400,), (16_200, 5_400)),
    "resisc45": Task(45, (6_300,), (18_900, 6_300)),
    "diabetic_retinopathy": Task(5, (42_670,), (35_126, 10_906)),
    "clevr_count": Task(8, (15_000,), (63_000, 7_000)),
    "clevr_dist": Task(6, (15_000,), (63_000, 7_000)),
    "dmlab": Task(6, (22_735,), (65_550, 22_628)),
    "kitti": Task(4, (711,), (6_347, 423)),
    "dsprites_loc": Task(16, (73_728,), (589_824, 73_728), twins=_TURNED),
    "dsprites_ori": Task(16, (73_728,), (589_824, 73_728), twins=_TURNED),
    "smallnorb_azi": Task(18, (12_150,), (24_300, 12_150)),
    "smallnorb_ele": Task(9, (12_150,), (24_300, 12_150)),
}


def spellings(task: str) -> tuple[str, ...]:
    """The task's own name, and the others in use for it."""
    return task, *(alias for alias, name in ALIASES.items() if name == task)


def canonical(word: str) -> str:
    """The task that `word` names, with or without `vtab/` before it. Raises UserError, with the nearest name."""
    name = word.removeprefix("vtab/")
    if ALIASES.get(name, name) in TASKS:
        return ALIASES.get(name, name)
    raise UserError(
        f"'{word}': is no task of VTAB-1k{nearest(name, [*TASKS, *ALIASES])}; peftbench list data names the 19."
    )
