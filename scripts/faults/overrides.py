"""Words of the command line that nobody should give."""

from __future__ import annotations

import random
from functools import cache

from faults.verdicts import Verdict, called, judged, told
from faults.world import World

_KEYS = (
    *("method", "backbone", "data", "task", "taps", "trainer", "optimizer", "logger", "pruning", "protocol", "sweep"),
    *("hydra/launcher", "hydra/sweeper", "hydra.run.dir", "hydra.verbose", "hydra.searchpath", "hydra.mode", "page"),
    *("data.ood.x", "backbone.cfg.mean", "backbone.cfg.input_size", "backbone.args.x", "task.name.x", "method@a"),
    *(
        "seed",
        "output_dir",
        "force",
        "start",
        "a.b",
        "a b",
        "",
        ".",
        "@",
        "method.",
        ".method",
        "é",
        "\x1b[31m",
        "--",
        "-m",
    ),
)
_VALUES = (
    *("", "1", "-1", "0", "1_000", "1e999", "nan", "inf", "0x10", "9" * 5000, "true", "null", "*", "?", "???", "x"),
    *("[1,2]", "[[1]]", "[", "]", "{a:1}", "{", "{a:{b:[1]}}", "a,b", "[a,b", "range(3)", "choice(1,2)", "glob(*)"),
    *(
        "glob(",
        "sort(1,2)",
        "interval(0,1)",
        "${seed}",
        "${nothing}",
        "${",
        "${a.b.c}",
        "${oc.env:HOME}",
        "${with_home:}",
    ),
    *("'x", '"x', "'a b'", "a=b", "a b", "x" * 6000, "[" * 400 + "]" * 400, "é", "\u202e", "\x1b[2J", "\t", "\n", "\\"),
    *("/dev/zero", "/etc/passwd", "../../x", "~", "~nobody_at_all", "file:///etc", "1:2", "2020-01-01", "0o7", "!!x"),
)


@cache
def _known_keys() -> list[str]:
    from peftbench.common.config_files import roots
    from peftbench.config.near_keys import known_keys

    return sorted(known_keys([], roots()))


def try_words(rng: random.Random, world: World) -> list[Verdict]:
    """One to three such words, composed, planned or trained."""
    words = [_word(rng) for _ in range(rng.choice((1, 1, 1, 2, 3)))]
    base = ["backbone=resnet_nano", "backbone.pretrained=false", "data=digits", "data.size=32"]
    base += ["method=lora", "trainer.progress=false"]
    what = " ".join(f"{word!r:.70}" for word in words)
    way = rng.choice(("compose", "compose", "compose", "plan", "train"))
    world.begin()
    if way == "compose":
        return [judged(f"compose {what}", called(lambda: _composed([*base, *words])))]
    if way == "train":
        base += [
            "trainer.trial=true",
            "trainer.max_batches=1",
            "trainer.epochs=1",
            f"output_dir={world.place}",
            "logger=none",
        ]
        return [judged(f"train {what}", told([*base, *_at_home(words)]))]
    return [judged(f"plan {what}", told(["plan", *base, *words]))]


def _at_home(words: list[str]) -> list[str]:
    """Without words that would have a real run write elsewhere, fetch, or start processes."""
    elsewhere = ("output_dir", "hydra", "sweep", "protocol", "experiment", "trainer.devices", "trainer.nodes", "force")
    return [w for w in words if not w.lstrip("+~-").startswith(elsewhere) and "glob(" not in w]


def _composed(words: list[str]) -> int:
    import sys

    import peftbench
    from peftbench.common.terminal import visible

    try:
        peftbench.compose(*words)
    except peftbench.UserError as mistake:
        print(f"peftbench: {visible(str(mistake))}", file=sys.stderr)
        return 2
    return 0


def _word(rng: random.Random) -> str:
    key = rng.choice(_known_keys()) if rng.random() < 0.5 else rng.choice(_KEYS)
    mark = rng.choice(("", "", "", "", "+", "++", "~"))
    value = rng.choice(_VALUES)
    if rng.random() < 0.1:
        value = "".join(rng.choice("[]{}(),:'\"=$\\ .a1-*~@") for _ in range(rng.randrange(1, 12)))
    return rng.choice((f"{mark}{key}={value}",) * 6 + (f"{mark}{key}", f"{mark}{key}@x={value}", f"--{key}={value}"))
