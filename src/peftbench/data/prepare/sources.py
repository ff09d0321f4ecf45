"""Where the images of VTAB-1k's tasks come from: one table, shown by `peftbench data sources`."""

from __future__ import annotations

from dataclasses import dataclass

from peftbench.common.errors import UserError


@dataclass(frozen=True)
class File:
    """One file of a source, under the name that it has at home.

    Attributes:
        url: where it is fetched; None where only a person can.
        unpacked: folders that may stand for it, as unpacking it leaves them, or the file's place in torchvision's.
    """

    name: str
    url: str | None = None
    unpacked: tuple[str, ...] = ()

    @property
    def other(self) -> str:
        """The first of what may stand for it; a folder ends in a slash."""
        first = self.unpacked[0] if self.unpacked else ""
        return first if not first or first.endswith(self.name) else f"{first}/"


@dataclass(frozen=True)
class Source:
    """A set of images from which one or two tasks are made.

    Attributes:
        reader: the module of `readers/` that understands its files.
        cut: role -> (split of TFDS's data set, from, to in percent): what task_adaptation draws the role from.
        licence: as its authors state it; look at `home` before you rely on it.
        steps: what a person must do first, where it cannot simply be fetched.
        known: whether TFDS's order of it can be computed from the files.
        names: the classes in the order of their labels, where they are the names of folders.
    """

    tasks: tuple[str, ...]
    title: str
    home: str
    licence: str
    reader: str
    files: tuple[File, ...]
    cut: dict[str, tuple[str, int, int]]
    steps: str = ""
    known: bool = True
    note: str = ""
    names: tuple[str, ...] = ()


_OWN = {"train": ("train", 0, 100), "val": ("validation", 0, 100), "test": ("test", 0, 100)}
_60_20_20 = {"train": ("train", 0, 60), "val": ("train", 60, 80), "test": ("train", 80, 100)}


def _from_train(percent: int, test: str = "test") -> dict[str, tuple[str, int, int]]:
    return {"train": ("train", 0, percent), "val": ("train", percent, 100), "test": (test, 0, 100)}


def _files(base: str, *names: str, at: str = "") -> tuple[File, ...]:
    return tuple(File(name, base + name, (f"{at}/{name}",) if at else ()) for name in names)


# fmt: off
_EUROSAT = (
    "AnnualCrop", "Forest", "HerbaceousVegetation", "Highway", "Industrial", "Pasture", "PermanentCrop",
    "Residential", "River", "SeaLake",
)
_RESISC45 = (
    "airplane", "airport", "baseball_diamond", "basketball_court", "beach", "bridge", "chaparral", "church",
    "circular_farmland", "cloud", "commercial_area", "dense_residential", "desert", "forest", "freeway",
    "golf_course", "ground_track_field", "harbor", "industrial_area", "intersection", "island", "lake", "meadow",
    "medium_residential", "mobile_home_park", "mountain", "overpass", "palace", "parking_lot", "railway",
    "railway_station", "rectangular_farmland", "river", "roundabout", "runway", "sea_ice", "ship", "snowberg",
    "sparse_residential", "stadium", "storage_tank", "tennis_court", "terrace", "thermal_power_station", "wetland",
)
# fmt: on
_NORB = "smallnorb-5x{}x9x18x6x2x96x96-{}-{}.mat.gz"
_SUN_LISTS = (
    "https://raw.githubusercontent.com/tensorflow/datasets/master/tensorflow_datasets/image_classification/sun397_tfds_"
)

SOURCES = {
    "cifar100": Source(
        ("cifar",),
        "CIFAR-100 (Krizhevsky, 2009)",
        "https://www.cs.toronto.edu/~kriz/cifar.html",
        "none stated",
        "cifar100",
        (
            File(
                "cifar-100-binary.tar.gz",
                "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
                ("cifar-100-binary",),
            ),
        ),
        _from_train(90),
        note="the binary version; the Python version, which torchvision fetches, is a pickle and is not read",
    ),
    "caltech101": Source(
        ("caltech101",),
        "Caltech-101 (Li et al., 2004)",
        "https://doi.org/10.22002/D1.20086",
        "CC BY 4.0",
        "caltech101",
        (
            File(
                "caltech-101.zip",
                "https://data.caltech.edu/records/mzrjq-6wc02/files/caltech-101.zip",
                ("101_ObjectCategories", "caltech101/101_ObjectCategories", "caltech-101/101_ObjectCategories"),
            ),
        ),
        _from_train(90),
        known=False,
        note="TFDS drew 30 images a class in the order in which one file system listed them, which nobody can repeat",
    ),
    "dtd": Source(
        ("dtd",),
        "Describable Textures (Cimpoi et al., 2014), release 1.0.1",
        "https://www.robots.ox.ac.uk/~vgg/data/dtd/",
        "for research",
        "dtd",
        (
            File(
                "dtd-r1.0.1.tar.gz",
                "https://www.robots.ox.ac.uk/~vgg/data/dtd/download/dtd-r1.0.1.tar.gz",
                ("dtd/dtd", "dtd"),
            ),
        ),
        _OWN,
    ),
    "flowers102": Source(
        ("oxford_flowers102",),
        "Oxford Flowers 102 (Nilsback and Zisserman, 2008)",
        "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/",
        "none stated",
        "flowers102",
        (
            File(
                "102flowers.tgz",
                "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/102flowers.tgz",
                ("flowers-102/jpg", "jpg"),
            ),
            *_files(
                "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/", "imagelabels.mat", "setid.mat", at="flowers-102"
            ),
        ),
        _OWN,
    ),
    "oxford_iiit_pet": Source(
        ("oxford_iiit_pet",),
        "Oxford-IIIT Pet (Parkhi et al., 2012)",
        "https://www.robots.ox.ac.uk/~vgg/data/pets/",
        "CC BY-SA 4.0",
        "pets",
        (
            File(
                "images.tar.gz",
                "https://thor.robots.ox.ac.uk/~vgg/data/pets/images.tar.gz",
                ("oxford-iiit-pet/images", "images"),
            ),
            File(
                "annotations.tar.gz",
                "https://thor.robots.ox.ac.uk/~vgg/data/pets/annotations.tar.gz",
                ("oxford-iiit-pet/annotations", "annotations"),
            ),
        ),
        _from_train(80),
    ),
    "svhn": Source(
        ("svhn",),
        "Street View House Numbers, cropped (Netzer et al., 2011)",
        "http://ufldl.stanford.edu/housenumbers/",
        "non-commercial use",
        "svhn",
        _files("http://ufldl.stanford.edu/housenumbers/", "train_32x32.mat", "test_32x32.mat"),
        _from_train(90),
    ),
    "sun397": Source(
        ("sun397",),
        "SUN397 (Xiao et al., 2010)",
        "https://vision.princeton.edu/projects/2010/SUN/",
        "for research",
        "sun397",
        (
            File("SUN397.tar.gz", "https://vision.princeton.edu/projects/2010/SUN/SUN397.tar.gz", ("SUN397",)),
            *(File(f"sun397_tfds_{part}.txt", f"{_SUN_LISTS}{part}.txt") for part in ("tr", "va", "te")),
        ),
        _OWN,
        note="37 GB to fetch; the original files are kept, which TFDS shrinks to 120,000 pixels and encodes again",
    ),
    "patch_camelyon": Source(
        ("patch_camelyon",),
        "PatchCamelyon (Veeling et al., 2018)",
        "https://doi.org/10.5281/zenodo.2546921",
        "CC0 1.0",
        "patch_camelyon",
        _files(
            "https://zenodo.org/records/2546921/files/",
            *(
                f"camelyonpatch_level_2_split_{split}_{part}.h5.gz"
                for split in ("train", "valid", "test")
                for part in "xy"
            ),
            at="pcam",
        ),
        _OWN,
        note="needs h5py (pip install 'peftbench[vtab]'); the .h5 files are unpacked beside the archives, 9 GB",
    ),
    "eurosat": Source(
        ("eurosat",),
        "EuroSAT, RGB (Helber et al., 2019)",
        "https://doi.org/10.5281/zenodo.7711810",
        "MIT",
        "class_folders",
        (
            File(
                "EuroSAT_RGB.zip",
                "https://zenodo.org/records/7711810/files/EuroSAT_RGB.zip",
                ("EuroSAT_RGB", "eurosat/2750", "2750"),
            ),
        ),
        _60_20_20,
        names=_EUROSAT,
    ),
    "resisc45": Source(
        ("resisc45",),
        "NWPU-RESISC45 (Cheng et al., 2017)",
        "https://gcheng-nwpu.github.io/",
        "none stated",
        "class_folders",
        (File("NWPU-RESISC45.zip", None, ("NWPU-RESISC45",)),),
        _60_20_20,
        steps="fetch NWPU-RESISC45.rar by hand (OneDrive, linked at its home) and unpack it: 45 folders of 700 jpg",
        names=_RESISC45,
    ),
    "diabetic_retinopathy": Source(
        ("diabetic_retinopathy",),
        "Diabetic Retinopathy Detection (Kaggle and EyePACS, 2015)",
        "https://www.kaggle.com/c/diabetic-retinopathy-detection",
        "the competition's rules",
        "retinopathy",
        (
            File("trainLabels.csv"),
            File(
                "retinopathy_solution.csv",
                "https://storage.googleapis.com/kaggle-forum-message-attachments/90528/2877/retinopathy_solution.csv",
            ),
            File("train.zip", None, ("train",)),
            File("test.zip", None, ("test",)),
        ),
        _OWN,
        steps="accept the rules at Kaggle, fetch trainLabels.csv and the parts of train.zip and test.zip, join and "
        "unpack them: train/*.jpeg, test/*.jpeg",
        note="processed as TFDS's btgraham-300 does; 97 GB of photographs, hours of work",
    ),
    "clevr": Source(
        ("clevr_count", "clevr_dist"),
        "CLEVR 1.0 (Johnson et al., 2017)",
        "https://cs.stanford.edu/people/jcjohns/clevr/",
        "CC BY 4.0",
        "clevr",
        (
            File(
                "CLEVR_v1.0.zip",
                "https://dl.fbaipublicfiles.com/clevr/CLEVR_v1.0.zip",
                ("clevr/CLEVR_v1.0", "CLEVR_v1.0"),
            ),
        ),
        _from_train(90, "validation"),
        note="18 GB to fetch",
    ),
    "dmlab": Source(
        ("dmlab",),
        "DMLab frames (Zhai et al., 2019)",
        "https://github.com/google-research/task_adaptation",
        "none stated",
        "dmlab",
        (File("dmlab.tar.gz", "https://storage.googleapis.com/dmlab-vtab/dmlab.tar.gz", ("dmlab",)),),
        _OWN,
    ),
    "kitti": Source(
        ("kitti",),
        "KITTI objects, left camera (Geiger et al., 2012)",
        "https://www.cvlibs.net/datasets/kitti/",
        "CC BY-NC-SA 3.0",
        "kitti",
        (
            File(
                "data_object_image_2.zip",
                "https://s3.eu-central-1.amazonaws.com/avg-kitti/data_object_image_2.zip",
                ("Kitti/raw/training/image_2", "training/image_2"),
            ),
            File(
                "data_object_label_2.zip",
                "https://s3.eu-central-1.amazonaws.com/avg-kitti/data_object_label_2.zip",
                ("Kitti/raw/training/label_2", "training/label_2"),
            ),
            File(
                "devkit_object.zip",
                "https://s3.eu-central-1.amazonaws.com/avg-kitti/devkit_object.zip",
                ("devkit_object", "mapping"),
            ),
        ),
        _OWN,
        note="split by video as TFDS 3.2.0 and later do; 12 GB to fetch",
    ),
    "dsprites": Source(
        ("dsprites_loc", "dsprites_ori"),
        "dSprites (Matthey et al., 2017)",
        "https://github.com/google-deepmind/dsprites-dataset",
        "Apache-2.0",
        "dsprites",
        _files(
            "https://github.com/google-deepmind/dsprites-dataset/raw/master/",
            "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz",
        ),
        {"train": ("train", 0, 80), "val": ("train", 80, 90), "test": ("train", 90, 100)},
    ),
    "smallnorb": Source(
        ("smallnorb_azi", "smallnorb_ele"),
        "SmallNORB (LeCun et al., 2004)",
        "https://cs.nyu.edu/~ylclab/data/norb-v1.0-small/",
        "for research",
        "smallnorb",
        _files(
            "https://cs.nyu.edu/~ylclab/data/norb-v1.0-small/",
            *(
                _NORB.format(instances, split, part)
                for instances, split in (("46789", "training"), ("01235", "testing"))
                for part in ("dat", "info")
            ),
        ),
        {"train": ("train", 0, 100), "val": ("test", 0, 50), "test": ("test", 50, 100)},
        note="the left picture of each pair",
    ),
}


def source_of(task: str) -> tuple[str, Source]:
    """The name of a task's source, and the source.

    Raises:
        UserError: no source has this task.
    """
    for name, source in SOURCES.items():
        if task in source.tasks:
            return name, source
    raise UserError(f"vtab/{task}: no source is known.")
