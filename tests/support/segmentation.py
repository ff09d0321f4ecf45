"""Small segmenters, images with masks to train them on, and folders of these."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from PIL import Image

import peftbench
from peftbench.models.model import Model
from peftbench.runs.build import instantiate
from peftbench.tasks.base import task_class
from support.detection import started

CANVAS = (64, 64)
CLASSES = ("ground", "a", "b")


def pictures(count=2, size=CANVAS):
    """A batch of images with masks of three classes, some pixels ignored."""
    g = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, *size), dtype=torch.uint8, generator=g)
    masks = torch.zeros((count, *size), dtype=torch.uint8)
    masks[:, : size[0] // 2] = 1
    masks[:, :, size[1] // 2 :] = 2
    masks[:, -3:] = 255
    return images, [{"mask": mask, "true": mask} for mask in masks]


def composed(method, backbone, *words, size=CANVAS):
    spec = peftbench.compose(f"method={method}", f"backbone={backbone}", "data=digits_seg", *words)
    return dataclasses.replace(spec, data=dataclasses.replace(spec.data, size=size))


def make(method, backbone, *words, size=CANVAS):
    """An adapted model, not yet trained."""
    spec = composed(method, backbone, *words, size=size)
    built = instantiate(spec.method)
    net = started(spec, built)
    torch.manual_seed(1)
    model = Model(net, task_class(spec.task).build(spec.task, net, CLASSES))
    with torch.random.fork_rng():
        plan = built.prepare(model, [pictures(size=size)])
    model.adapted(built.adapt(net, plan))
    model.method = built
    return model


def trained(model, count=2, lr=0.05, kind=torch.optim.SGD, size=CANVAS):
    """The losses of steps on one batch."""
    named = model.trainable()
    optimizer = model.method.optimizer(named, {n: p.detach().clone() for n, p in named}, kind(named, lr))
    optimizer.objective = lambda: model.loss(pictures(size=size))  # of TPGM
    losses = []
    for _ in range(count):
        model.train()
        torch.manual_seed(2)
        loss = model.loss(pictures(size=size))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def seg_folder(root, roles=("train", "val", "test"), count=2, size=(24, 32), classes=3, mode="L"):
    """A folder that `data=seg_folder` reads, (height, width) pixels each; returns `root`."""
    rng = np.random.default_rng(0)
    for number, role in enumerate(roles):
        for kind in ("images", "masks"):
            (root / kind / role).mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
            mask = rng.integers(0, classes, size).astype(np.uint8)
            Image.fromarray(pixels).save(root / "images" / role / f"{number}{i}.png")
            write_mask(root / "masks" / role / f"{number}{i}.png", mask, mode)
    return root


COLOURS = [(0, 0, 0), (255, 0, 0), (0, 128, 255)]


def mask_image(mask, mode="L"):
    """A mask of up to three classes as values, with a palette, or in colours."""
    if mode == "RGB":
        return Image.fromarray(np.array(COLOURS, dtype=np.uint8)[mask])
    image = Image.fromarray(mask)
    if mode == "P":
        image.putpalette([part for colour in COLOURS for part in colour])
    return image


def write_mask(path, mask, mode="L"):
    """The same in a file."""
    mask_image(mask, mode).save(path)
