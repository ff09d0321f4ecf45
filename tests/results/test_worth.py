"""What an answer says of figures of few seeds: which rows they are, and what tells them apart."""

from __future__ import annotations

from support.reports import record, tell, write


def seeded(method: str, right: int, seeds, step: int = 0, images: int = 1000, **more) -> list[dict]:
    """Records that have `right` images right, `step` more with each seed."""
    of = {"stamps__data__images": {"test": images}}
    return [record(method, seed=s, accuracy=(right + step * i) / images, **of | more) for i, s in enumerate(seeds)]


def test_seeds_that_are_not_shared_are_said_of_that_row_alone(tmp_path):
    write(tmp_path, *seeded("full", 922, range(5), 1), *seeded("linear", 752, range(5), 1))
    write(tmp_path, *seeded("lora", 808, range(3, 8), 1))
    out = tell("report", tmp_path)
    assert "The 2 others are lower by more than the noise; the next is lora" in out
    assert "lora shares fewer than 3 seeds with the highest, which does not say what another seed changes." in out
    assert "Fewer than 3 seeds do not say" not in out


def test_the_spread_of_two_seeds_decides_where_it_is_wider_than_that_of_images(tmp_path):
    write(tmp_path, *seeded("full", 900, range(2), 30), *seeded("lora", 900, range(2)))
    out = tell("report", tmp_path)
    assert "One of the 1,000 test images is 0.1 points. Against lora the spread of seeds decides" in out
    assert "Fewer than 3 seeds do not say what another seed changes." in out
    assert "differ by less than about" not in out


def test_what_does_not_hold_after_correction_is_joined_by_but(tmp_path):
    for place, method in enumerate(("full", "linear", "bitfit", "lora", "losa", "lst", "cst", "petah")):
        accuracies = (0.95 - 0.01 * place + shift * (place % 3) for shift in (-0.003, 0.0, 0.004))
        write(tmp_path, *(record(method, seed=seed, accuracy=value) for seed, value in enumerate(accuracies)))
    assert ", but" in tell("report", tmp_path).split("after correction for so many comparisons (Holm)")[0][-30:]


def test_one_image_tells_nothing_apart(tmp_path):
    write(tmp_path, *seeded("lora", 1, [0], images=1), *seeded("full", 0, [0], images=1))
    out = tell("report", tmp_path)
    assert "There is 1 test image, which tells no two methods apart." in out
    assert "test images is" not in out


def test_a_name_with_a_comma_is_told_from_its_figure(tmp_path):
    for place, (lr, decay, rank) in enumerate([(1e-3, 0.1, 4), (1e-2, 0.2, 8), (1e-3, 0.2, 4), (1e-2, 0.1, 8)]):
        options = {"config__optimizer__lr": lr, "config__optimizer__weight_decay": decay}
        each = record("lora", accuracy=0.9 - 0.1 * place, config__method__options={"rank": rank}, **options)
        write(tmp_path, each | {"id": f"lora-{place}"})
    assert "…, 90.0 %" not in tell("report", tmp_path, "settings=all")
