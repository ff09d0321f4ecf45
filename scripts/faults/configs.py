"""Hostile YAML that the user was sent, and hostile archives and weights."""

from __future__ import annotations

import io
import random
import tarfile
import zipfile
from pathlib import Path

from faults.damage import HOSTILE_YAML, of_bytes, of_yaml
from faults.verdicts import LOST, Verdict, contents, judged, told
from faults.world import ROOT, World

_GROUPS = (
    "method/lora",
    "backbone/vit_nano",
    "data/digits",
    "optimizer/adamw",
    "trainer/default",
    "task/classification",
)


def try_config(rng: random.Random, world: World) -> list[Verdict]:
    """A YAML of a folder of somebody else's, which the words choose, or only lies there."""
    place = world.begin()
    group, _, name = rng.choice(_GROUPS).partition("/")
    shipped = ROOT / "configs" / group / f"{name}.yaml"
    content = shipped.read_bytes() if shipped.is_file() else b"name: x\n"
    what, content = of_yaml(rng, content)
    if rng.random() < 0.3:
        what = rng.choice(list(HOSTILE_YAML))
        content = HOSTILE_YAML[what].encode()
    file = place / "mine" / group / "theirs.yaml"
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    words = ["--config-dir", place / "mine", "backbone=resnet_nano", "backbone.pretrained=false", "data=digits"]
    words += [
        "method=lora",
        "trainer.progress=false",
        "trainer.trial=true",
        "trainer.max_batches=1",
        "trainer.epochs=2",  # inside of a block that timm starts at zero nothing moves in the first
        "logger=none",
        f"output_dir={place / 'out'}",
    ]
    if rng.random() < 0.75:
        words = [w for w in words if not str(w).startswith(f"{group}=")] + [f"{group}=theirs"]
    return [judged(f"--config-dir {group}: {what}", told([*words]))]


def _zip(rng: random.Random, path: Path, names: list[str], big: int) -> str:
    packing = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))
    with zipfile.ZipFile(path, "w", packing) as archive:
        for name in names:
            archive.writestr(name, b"images/a.png 3\n" * 3)
        if big and packing == zipfile.ZIP_DEFLATED:
            with archive.open("images/a.png", "w", force_zip64=True) as file:
                for _ in range(big):
                    file.write(bytes(2**20))
    content = bytearray(path.read_bytes())
    way = rng.choice(("as it is", "packing", "password", "name", "size"))
    at = content.rfind(b"PK\x01\x02")
    if way == "packing":
        content[at + 10 : at + 12] = b"\x63\x00"
    elif way == "password":
        content[at + 8] |= 1
    elif way == "name":
        content[at + 46] = 0
    elif way == "size":
        content[at + 24 : at + 28] = b"\xff\xff\xff\x7f"
    path.write_bytes(content)
    return f"zip, {way}"


def _tar(rng: random.Random, path: Path, names: list[str], big: int) -> str:
    mode = rng.choice(("w", "w:gz", "w:bz2", "w:xz"))
    way = rng.choice(("as it is", "link out", "hard link", "device", "long header", "negative"))
    with tarfile.open(path, mode, format=tarfile.PAX_FORMAT) as archive:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = 45
            archive.addfile(info, io.BytesIO(b"images/a.png 3\n" * 3))
        extra = tarfile.TarInfo("images/a.png")
        if way in ("link out", "hard link"):
            extra.type = tarfile.SYMTYPE if way == "link out" else tarfile.LNKTYPE
            extra.linkname = "../../../../etc/passwd"
        elif way == "device":
            extra.type = tarfile.CHRTYPE
        elif way == "long header":
            extra.pax_headers = {"comment": "x" * 2**21}
        elif big and mode == "w:gz":
            extra.size = big * 2**20
        archive.addfile(extra, io.BytesIO(bytes(extra.size)) if extra.size else None)
    return f"tar, {mode}, {way}"


def try_archive(rng: random.Random, world: World) -> list[Verdict]:
    """An archive, or a folder, of a task that somebody else made."""
    place = world.begin()
    lists = [f"svhn/{name}.txt" for name in ("train800", "val200", "train800val200", "test")]
    odd = rng.choice(
        ("../x.txt", "/etc/x", "a\\..\\..\\x", "C:/x", "svhn/\x1b[2J", "svhn/" + "a/" * 300, "svhn/ü", "svhn/.")
    )
    names = [*lists, odd] if rng.random() < 0.6 else lists
    path, big = place / "svhn.zip", rng.choice((0, 0, 0, 80))
    if rng.random() < 0.5:
        what = _zip(rng, path, names, big)
    else:
        path = place / rng.choice(("svhn.tar", "svhn.tar.gz"))
        what = _tar(rng, path, names, big)
    if rng.random() < 0.4:
        more, content = of_bytes(rng, path.read_bytes())
        path.write_bytes(content)
        what += f", {more}"
    before = contents(place)
    end = told(["data", "prepare", "vtab/svhn", "source=folder", f"path={path}", f"dir={place / 'data'}"])
    verdict = judged(f"{what}, {odd!r:.30}", end, lambda _: False)
    strange = [n for n in contents(place) if n not in before and not n.startswith("data/")]
    return [Verdict(verdict.what, LOST, f"{strange[0]} was written")] if strange else [verdict]


def try_weights(rng: random.Random, world: World) -> list[Verdict]:
    """A file of weights that somebody else made."""
    import torch

    place = world.begin()
    path = place / rng.choice(("w.pth", "w.pt", "w.bin", "w.safetensors"))
    value = rng.choice(
        (
            {"x": torch.zeros(3)},
            {"state_dict": {"x": 3}},
            [torch.zeros(2)],
            {"x": torch.zeros(0)},
            {3: torch.zeros(2)},
            7,
        )
    )
    torch.save(value, path)
    what = "as it is"
    if rng.random() < 0.3:
        packed = place / "packed"
        with zipfile.ZipFile(path) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
            for name in old.namelist():
                new.writestr(name, old.read(name))
        packed.replace(path)
        what = "packed records"
    elif rng.random() < 0.8:
        what, content = of_bytes(rng, path.read_bytes())
        path.write_bytes(content)
    words = [
        "backbone=resnet_nano",
        f"backbone.weights={path}",
        "data=digits",
        "method=linear",
        "trainer.trial=true",
        "trainer.max_batches=1",
    ]
    words += ["trainer.progress=false", "logger=none", f"output_dir={place / 'out'}"]
    return [judged(f"{path.name} of {type(value).__name__}: {what}", told(words), lambda _: False)]
