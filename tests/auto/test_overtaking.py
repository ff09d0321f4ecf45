"""Methods that change the backbone in `auto`: they begin from a probe's head, and end where they cannot overtake."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from peftbench.answering.choices import WeightMethod, choices
from peftbench.answering.overtaking import reach_of
from support.datasets import write


@pytest.mark.parametrize(
    ("rungs", "reach"),
    [
        ([(1, 0.5), (2, 0.6)], 0.8),  # two more doublings, each of which brings as much as this one
        ([(1, 0.5), (2, 0.6), (4, 0.62)], 0.72),  # the best doubling counts, not the last
        ([(1, 0.5), (4, 0.6)], 0.65),
        ([(1, 0.5), (2, 0.4)], 0.5),  # what falls is led on level, from its highest
    ],
)
def test_a_curve_is_led_on_by_its_best_doubling(rungs, reach):
    assert reach_of(rungs, 8) == pytest.approx(reach)


@pytest.mark.slow
def test_what_can_overtake_goes_on_and_what_cannot_ends_and_the_path_says_both(tmp_path, cli):
    """Of colours that any head tells apart one method learns nothing at its rate, and the two others everything."""
    rng = np.random.default_rng(0)
    for name, colour in {"blue": (30, 40, 200), "green": (40, 190, 50), "red": (200, 40, 30)}.items():
        for number in range(16):
            pixels = np.array(colour) + rng.integers(-30, 30, (16, 16, 3))
            write(tmp_path / "photos" / name / f"{number}.png", pixels.clip(0, 255).astype(np.uint8))
    weights = (
        WeightMethod("partial", (1e-4,)),
        WeightMethod("lora", (30.0,)),
        WeightMethod("lp_ft", (1e-5,), ("optimizer.layer_decay=0.75",)),
    )
    whole = choices()
    before = dict(vars(whole))
    vars(whole).update({"weights": weights, "rungs": (2,), "enough_epochs": 8, "least_epochs": 1})
    try:
        asked = ["data=folder", f"data.root={tmp_path / 'photos'}", "data.val_fraction=0.25", "data.size=32"]
        asked += ["backbones=[resnet_nano]", "methods=[partial,lora,lp_ft]", f"output_dir={tmp_path / 'out'}"]
        status, out, error = cli("auto", *asked, "minutes=20", "prior=none")
    finally:
        vars(whole).update(before)
    assert status == 0, error
    (folder,) = (tmp_path / "out").glob("auto-*")
    state = json.loads((folder / "auto.json").read_text(encoding="utf-8"))
    epochs = {
        method: [one["words"][-1] for one in state["tried"] if (one["method"], one["step"]) == (method, "weights")]
        for method in ("partial", "lora", "lp_ft")
    }
    short = ["trainer.epochs=1", "trainer.epochs=2"]
    assert epochs == {"partial": [*short, "trainer.epochs=8"], "lora": short, "lp_ft": [*short, "trainer.epochs=8"]}
    said = " ".join(entry["says"] for entry in state["decisions"])
    assert "lora on resnet_nano ends after 2 epochs: it cannot overtake any more; 8 epochs would reach" in said
    assert "lp_ft on resnet_nano goes on after 2 epochs: 8 epochs would reach" in said
    assert "lora on resnet_nano ends after 2 epochs" in out
    for one in state["tried"]:
        if one["step"] == "weights":
            record = json.loads((folder / "runs" / one["run"] / "result.json").read_text(encoding="utf-8"))
            assert record["stamps"]["first_phase"]["method"] == "logreg"
            assert "trainer.head_from=logreg" in one["words"]

    (line,) = [line for line in out.splitlines() if line.startswith("repeat it: peftbench ")]
    assert "trainer.head_from=logreg" in line
    status, _, error = cli(*line.split()[3:], "trainer.progress=false", f"output_dir={tmp_path / 'again'}")
    assert status == 0, error
    (again,) = (tmp_path / "again").glob("*/result.json")
    (first,) = folder.glob("answer/result.json")
    ours, theirs = (json.loads(path.read_text(encoding="utf-8")) for path in (again, first))
    assert (ours["id"], ours["metrics"]) == (theirs["id"], theirs["metrics"])
    assert Path(again).parent.name == state["answer"]["run"]
