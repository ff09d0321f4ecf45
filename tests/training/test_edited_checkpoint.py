"""Checkpoints that somebody edited and sealed again, or in which a bit flipped: one sentence, or what was written."""

from __future__ import annotations

import contextlib
import copy
import functools
import random
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from peftbench import UserError, compose
from peftbench.common.atomic_files import replacing
from peftbench.config import Config
from peftbench.runs.run import run
from peftbench.training.checkpoint import DirectIO
from peftbench.training.resuming import damage

MUTANTS = [None, -1, 7, "x", b"x", [], {}, {"x": 1}, float("nan"), True, 2**70, torch.zeros(3), torch.zeros(1, 1)]
MUTANTS += [torch.zeros(()).expand(10, 192), torch.zeros(10, 192, dtype=torch.int32)]
MUTANTS += [torch.zeros(10, 192, device="meta"), torch.zeros(10, 192).to_sparse()]


@pytest.fixture(scope="session")
def trained(tiny: list[str], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple]:
    """`trained(words)`: the config of a small run, its folder, and what its checkpoint holds."""

    @functools.cache
    def carried_out(words: str) -> tuple[Config, Path, dict]:
        output = tmp_path_factory.mktemp("trained")
        config = compose(*tiny, *words.split(), "trainer.epochs=2", f"output_dir={output}")
        folder = Path(run(config).folder)
        return config, folder, torch.load(folder / "checkpoint.ckpt", weights_only=True)

    return carried_out


def equal(a: object, b: object) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and set(a) == set(b) and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return isinstance(b, list | tuple) and len(a) == len(b) and all(map(equal, a, b))
    return a == b


def places(content: object, path: tuple = ()) -> list[tuple]:
    """The way to every field of a checkpoint, but for a few of many that are alike."""
    if isinstance(content, dict):
        items = list(content.items())[:4] if len(content) > 14 else list(content.items())
    elif isinstance(content, list):
        items = list(enumerate(content))[:2]
    else:
        return [path]
    return [path, *(p for key, item in items for p in places(item, (*path, key)))]


def mutated(content: dict, path: tuple, rng: random.Random) -> dict:
    """A copy of a checkpoint in which the field at `path` is something else, or gone, or has a neighbour."""
    spoilt = copy.deepcopy(content)
    inside = spoilt
    for key in path[:-1]:
        inside = inside[key]
    how = rng.random()
    if how < 0.2:
        del inside[path[-1]]
    elif how < 0.3 and isinstance(inside, dict):
        inside["load_state_dict"] = rng.choice(MUTANTS)
    else:
        inside[path[-1]] = rng.choice(MUTANTS)
    return spoilt


def resume(config: Config, folder: Path, content: dict) -> bool:
    """Whether the content was refused; else the run was completed from it, and nothing else happened."""
    torch.save(content, folder / "checkpoint.ckpt")
    (folder / "result.json").unlink(missing_ok=True)
    try:
        status, told = run(config).status, ""
    except UserError as problem:
        status, told = "refused", str(problem)
    assert status == "complete" or told.startswith(f"{folder / 'checkpoint.ckpt'}: ")
    assert "\n" not in told
    return status == "refused"


def test_an_edited_checkpoint_ends_in_one_sentence(trained):
    config, folder, content = trained("method=linear")
    rng = random.Random(1)
    refused = [resume(config, folder, mutated(content, path, rng)) for path in rng.sample(places(content)[1:], 6)]
    assert sum(refused) > 2


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("optimizer_states.0.state.0.exp_avg", torch.zeros(3)),
        ("optimizer_states.0.param_groups.0.weight_decay", 0.5),
        ("loops.fit_loop.epoch_progress.current.processed", 1),
        ("lr_schedulers.0.step", True),
        ("peftbench.history", []),
        ("peftbench.place", [1, 0]),
        ("peftbench.train_loss", torch.zeros(3)),
        ("state_dict.model.task.head.weight", torch.zeros(10, 192).half()),
    ],
)
def test_a_field_that_does_not_fit_is_named(trained, place, value):
    config, folder, content = trained("method=linear")
    spoilt = inside = copy.deepcopy(content)
    names = place.split(".", 1) if place.startswith("state_dict") else place.split(".")
    for name in names[:-1]:
        inside = inside[int(name)] if isinstance(inside, list) or name.isdecimal() else inside[name]
    inside[names[-1]] = value
    torch.save(spoilt, folder / "checkpoint.ckpt")
    (folder / "result.json").unlink(missing_ok=True)
    with pytest.raises(UserError) as told:
        run(config)
    assert place.rpartition(".")[0] in str(told.value)
    assert ", expected " in str(told.value)
    assert str(told.value).endswith("remove it, or give force=true, to start again.")


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        *(
            "method=linear optimizer=sgd",
            "method=ftp",
            "method=tpgm",
            "method=losa backbone=vit_nano trainer.accumulate=2",
        ),
        "method=bitfit trainer.keep=best trainer.minutes=5 optimizer.layer_decay=0.5",
    ],
)
def test_fields_of_many_kinds_of_checkpoint_are_checked(trained, words):
    config, folder, content = trained(words)
    rng = random.Random(len(words))
    for path in rng.sample(places(content)[1:], 40):
        resume(config, folder, mutated(content, path, rng))


@pytest.mark.slow
@pytest.mark.parametrize("words", ["method=full", "method=ftp", "method=lora optimizer=sgd"])
def test_every_flipped_bit_is_noticed_or_changes_nothing(trained, words):
    """Anywhere in the file, and above all in its directory, which no checksum covers."""
    _, folder, content = trained(words)
    path = folder / "checkpoint.ckpt"
    torch.save(content, path)
    sound = path.read_bytes()
    rng = random.Random(0)
    for at in [*(rng.randrange(len(sound)) for _ in range(100)), *(-1 - rng.randrange(20000) for _ in range(200))]:
        flipped = bytearray(sound)
        flipped[at] ^= 1 << rng.randrange(8)
        path.write_bytes(flipped)
        if damage(path):
            continue
        with contextlib.suppress(RuntimeError):  # torch notices what is left of the directory; it is set aside then too
            assert equal(torch.load(path, weights_only=True), content), at


@pytest.mark.slow
def test_the_seal_costs_a_tenth_of_saving_at_most(tmp_path):
    """torch computes the checksums in any case. They are looked at once, when a run is resumed: less than a save."""
    content = {"state_dict": {str(i): torch.randn(400, 1000) for i in range(40)}}  # 64 MB
    path = tmp_path / "checkpoint.ckpt"
    ways = {"sealed": partial(DirectIO().save_checkpoint, content), "plain": partial(torch.save, content)}
    seconds: dict[str, list[float]] = {"sealed": [], "plain": [], "checked": []}
    for _ in range(9):
        for name, save in ways.items():
            begun = time.perf_counter()
            with replacing(path) as part:
                save(part)
            seconds[name].append(time.perf_counter() - begun)
        begun = time.perf_counter()
        assert not damage(path)
        seconds["checked"].append(time.perf_counter() - begun)
    least = {name: min(values) for name, values in seconds.items()}
    assert least["sealed"] < 1.1 * least["plain"], least
    assert least["checked"] < 0.5 * least["plain"], least
