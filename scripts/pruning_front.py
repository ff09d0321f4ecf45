"""The front of latency and accuracy of `pruning.target`, and its table in docs/pruning.md.

    python scripts/pruning_front.py OUT [BACKBONE …]     # measures what OUT does not hold yet
    python scripts/pruning_front.py OUT --table          # writes the table anew from what it holds

It goes on where it was ended: runs that are finished, and figures in OUT/front.json, are not made again.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[1] / "docs" / "pruning.md"
BEGIN, END = "<!-- front: scripts/pruning_front.py -->", "<!-- end of front -->"
TARGETS = (0.7, 0.8, 0.9)
DATA = ("digits", "photos")
CASES: dict[str, list[str]] = {
    "hybrid_nano": [],
    "efficientnet_lite0": ["data.size=128", "pruning.recovery=200"],
    "efficientformer_l1": ["backbone.pretrained=false", "pruning.rounds=1", "pruning.recovery=0"],
}
"""Backbone -> words; of random weights no accuracy is told."""
ROUNDS = 30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("backbones", nargs="*", default=list(CASES))
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--targets", type=float, nargs="*", default=list(TARGETS))
    words = parser.parse_args()
    words.out.mkdir(parents=True, exist_ok=True)
    file = words.out / "front.json"
    rows: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    if not words.table:
        for backbone in words.backbones:
            for target in words.targets if CASES[backbone][:1] != ["backbone.pretrained=false"] else words.targets[:1]:
                key = f"{backbone} {target:g}"
                if key not in rows:
                    rows[key] = measure(backbone, target, words.out)
                    file.write_text(json.dumps(rows, indent=1) + "\n")
                    print(key, rows[key], flush=True)
    page = PAGE.read_text(encoding="utf-8")
    head, _, rest = page.partition(BEGIN)
    _, _, tail = rest.partition(END)
    PAGE.write_text(f"{head}{BEGIN}\n{table(rows)}{END}{tail}", encoding="utf-8")


def measure(backbone: str, target: float, out: Path) -> dict[str, Any]:
    """Accuracy of a linear probe on the whole and the pruned backbone, and the latency of their ONNX files."""
    import peftbench

    trained = CASES[backbone][:1] != ["backbone.pretrained=false"]
    accuracy: dict[str, Any] = {}
    folders: dict[bool, Path] = {}
    for data in DATA if trained else DATA[:1]:
        for pruned in (False, True):
            words = [w for w in CASES[backbone] if pruned or not w.startswith("pruning.")]
            if pruned:
                words += ["pruning=structured", f"pruning.target=latency:{target:g}"]
            if not trained:
                words += ["trainer.epochs=1", "trainer.max_batches=1", "data.eval_batch_size=32", "taps=off"]
            quiet = ["trainer.progress=false", "trainer.threads=1", f"output_dir={out / 'runs'}"]
            config = peftbench.compose("method=linear", f"backbone={backbone}", f"data={data}", *words, *quiet)
            record = peftbench.run(config)
            if record.status != "complete":
                raise SystemExit(f"{record.id}: {record.status}: {record.reason}")
            folders[pruned] = Path(record.folder)
            if trained:
                accuracy.setdefault(data, {})["pruned" if pruned else "whole"] = record.metrics["test/accuracy"]
    pruned_record = json.loads((folders[True] / "result.json").read_text())
    stamp = pruned_record["stamps"]["backbone"]["pruning"]
    return {
        "chosen": stamp["latency"]["share"],
        **_latency(folders[False], folders[True]),
        "accuracy": accuracy,
        "machine": pruned_record["stamps"]["machine"]["processor"],
    }


def _latency(whole: Path, pruned: Path) -> dict[str, Any]:
    """Seconds of both exported models, one image, one thread, the least of many turns, and their ratio."""
    import onnxruntime
    import torch

    from peftbench.pruning.runtimes import runtime_in_words, share_of_time
    from peftbench.tuned.export import export

    calls = []
    for folder in (pruned, whole):
        path = folder / "model.onnx"
        if not path.exists():
            export(folder, "onnx")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        (given,) = session.get_inputs()
        image = torch.rand(1, 3, *given.shape[2:]).numpy()
        calls.append(lambda session=session, image=image: session.run(None, {"images": image}))
    small, large, ratio = share_of_time(calls[0], calls[1], ROUNDS)
    return {"seconds": small, "whole": large, "share": ratio, "runtime": runtime_in_words("onnx")}


def table(rows: dict[str, Any]) -> str:
    lines = [
        "| backbone | target | ms, whole → pruned | share | digits | photos |",
        "|---|---|---|---|---|---|",
    ]
    for key, row in rows.items():
        backbone, target = key.split()
        cells = [_points(row["accuracy"].get(data)) for data in DATA]
        times = f"{1e3 * row['whole']:.2f} → {1e3 * row['seconds']:.2f}"
        lines.append(f"| `{backbone}` | {target} | {times} | {row['share']:.2f} | {cells[0]} | {cells[1]} |")
    return "\n".join(lines) + "\n"


def _points(accuracy: dict[str, float] | None) -> str:
    if accuracy is None:
        return ""
    whole, pruned = accuracy["whole"], accuracy["pruned"]
    return f"{100 * whole:.1f} → {100 * pruned:.1f} %"


if __name__ == "__main__":
    main()
