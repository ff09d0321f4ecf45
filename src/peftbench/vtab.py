"""The names of the VTAB-1k tasks: one canonical name each, and the others in use."""

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
    "oxford_flowers": "oxford_flowers102",
    "pet": "oxford_iiit_pet",
    "pets": "oxford_iiit_pet",
    "oxford_pet": "oxford_iiit_pet",
    "sun": "sun397",
    "camelyon": "patch_camelyon",
    "retinopathy": "diabetic_retinopathy",
    "clevr_distance": "clevr_dist",
    "dsprites_position": "dsprites_loc",
    "dsprites_location": "dsprites_loc",
    "dsprites_orientation": "dsprites_ori",
    "smallnorb_azimuth": "smallnorb_azi",
    "smallnorb_elevation": "smallnorb_ele",
}
