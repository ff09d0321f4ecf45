"""What the tests of finished runs share: pictures in files, and small runs on them."""

import numpy as np
import torch
from PIL import Image

import peftbench
from peftbench.results import read_record

QUIET = ["trainer.progress=false", "logger=none", "trainer.accelerator=cpu", "taps=off"]


def pictures(root, train=16, test=6):
    """Digits as PNG files in class folders: root/train/<word>/…, root/test/<word>/…."""
    from sklearn.datasets import load_digits

    raw = load_digits()
    images = (raw.images * 255 / 16).round().astype(np.uint8)
    for label, word in enumerate(("zero", "one", "two", "three")):
        members = np.flatnonzero(raw.target == label)
        for role, chosen in (("train", members[:train]), ("test", members[train : train + test])):
            folder = root / role / word
            folder.mkdir(parents=True, exist_ok=True)
            for i in chosen:
                Image.fromarray(images[i]).save(folder / f"{i}.png")
    return root


def finish(folder, data, method, backbone="vit_nano", *words):
    """The record of a small run on `pictures`."""
    config = peftbench.compose(
        f"method={method}",
        f"backbone={backbone}",
        "data=folder",
        f"data.root={data}",
        "data.val_fraction=0",
        "data.size=32",
        "data.batch_size=16",
        "trainer.epochs=1",
        f"output_dir={folder}",
        *QUIET,
        *words,
    )
    record = peftbench.run(config)
    assert record.status == "complete", record.reason
    return record


def records_in(output_dir):
    """The records of the runs in a folder, by name of the run's folder."""
    folders = [p for p in sorted(output_dir.iterdir()) if p.is_dir() and not p.name.startswith(".")]
    return [record for record in map(read_record, folders) if record]


def logits_of(data, tuned):
    """Logits and labels of the test images, in the order of the classes."""
    files = [(p, i) for i, c in enumerate(tuned.classes) for p in sorted((data / "test" / c).iterdir())]
    pixels = torch.stack([tuned.transform(p) for p, _ in files])
    with torch.no_grad():
        return tuned(pixels), torch.tensor([i for _, i in files])


def same(a, b):
    """Whether two states hold the same bits under the same names."""
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)
