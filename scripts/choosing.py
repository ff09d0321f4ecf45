"""Which method when: the tables of `docs/choosing.md`, made from the tables that are committed (`make docs-tables`)."""

from __future__ import annotations

import re
from pathlib import Path

DOCS = Path(__file__).resolve().parents[1] / "docs"
SITUATIONS: tuple[tuple[str, str, str], ...] = (
    ("you want the figure that every method has to beat", "linear", "a trained head on frozen features"),
    ("you want it now, without any rate to choose", "ridge", "solved in one pass; takes classes, labels and numbers"),
    ("you have a few images a class and good features", "logreg", "fitted to its end, its penalty chosen for you"),
    ("memory is short, and the probe is not enough", "losa", "no gradient enters the backbone"),
    ("small things in the image decide", "attentive", "looks at all tokens, not at their mean"),
    ("many tasks share one backbone, or you detect", "cst", "corrects every stage of a frozen backbone"),
    ("the task is unlike the pretraining", "lora", "changes every layer, and merges for free"),
    ("the same, and memory is a little short", "adapter", "keeps less for backward, stays at prediction"),
    ("the late layers are enough", "partial", "the frozen blocks run once and are kept"),
    ("each task may store next to nothing", "bitfit", "the biases alone"),
    ("parameters have a hard limit", "spt_lora", "spends a budget where your images need it"),
    ("your backbone has convolutions and attention", "petah", "low-rank updates of both"),
    ("you have many images, or nothing else is enough", "lp_ft", "everything trains, from a head that fits"),
    ("images in use are shifted from those you have", "wise_ft", "half the way back to the start"),
)
"""What a reader has, the method to begin with, and why in a few words."""
LORA = "adapter, our LoRA"
ROWS: dict[str, tuple[str, str]] = {
    "lora": (f"training step, ViT-S/16, batch 16: {LORA}", f"bytes saved for backward, ViT-S/16, batch 16: {LORA}"),
    "full": (
        "training step, full, ViT-S/16, batch 16: with trainer.grad_checkpointing, without",
        "bytes kept for backward, full, ViT-S/16, batch 16: with trainer.grad_checkpointing, without",
    ),
    "losa": ("LoSA step, ViT-S/16, norm=none (default), from kept taps, HF peft LoRA's step", ""),
    "attentive": (
        "attentive probe step, ViT-S/16, batch 16, fp32, from kept taps, LoRA's step",
        "attentive probe, same: bytes saved for backward, LoRA",
    ),
    "mlp": (
        "MLP head step, ViT-S/16, batch 16, fp32, from kept taps, LoRA's step",
        "MLP head, same: bytes saved for backward, LoRA",
    ),
    "partial": (
        "the last block (partial) step from kept taps, ViT-S/16, fp32, our LoRA's step",
        "the last block (partial), bytes saved for backward from kept taps, our LoRA's",
    ),
    "dtl": (
        "DTL step from kept taps, ViT-S/16, fp32, our LoRA's step",
        "DTL, bytes saved for backward from kept taps, our LoRA's",
    ),
    "ftp": ("training step, ViT-S/16, batch 16: FTP around fused AdamW, plain AdamW", ""),
}
ROWS |= {
    name: (
        f"training step, ViT-S/16, batch 16: {name}, our LoRA",
        f"bytes saved for backward, ViT-S/16, batch 16: {name}, our LoRA",
    )
    for name in ("adapter", "adaptformer", "adapter_plus", "pfeiffer", "houlsby", "repadapter", "convpass", "mona")
}
ROWS |= {
    name: (
        f"training step, ViT-S/16, batch 16: {shown}",
        f"kept for backward, ViT-S/16, batch 16: {shown}",
    )
    for name, shown in (("ssf", "SSF"), ("fact", "FacT"), ("gps", "GPS"), ("vpt", "VPT"), ("apla", "APLA"))
}
ROWS |= {
    name: (
        f"training step, ViT-S/16, batch 16, fp32, rank 8: {shown}, LoRA",
        f"bytes saved for backward, ViT-S/16, batch 16, rank 8: {shown}, LoRA",
    )
    for name, shown in (
        ("dora", "DoRA"),
        ("rslora", "rsLoRA"),
        ("pissa", "PiSSA"),
        ("olora", "OLoRA"),
        ("lora_plus", "LoRA+"),
        ("pace", "PACE"),
    )
}
ROWS |= dict.fromkeys(("lp_ft", "wise_ft"), ROWS["full"])
"""Method -> what the rows of the benchmarks begin with that tell its step and what it keeps for backward."""
PEERS = {"lora", "full", "lp_ft", "wise_ft"}
"""Whose figure is that of the row's peer."""
KEPT_TAPS = {"losa", "attentive", "mlp", "partial", "dtl"}


def step_costs(method: str) -> str:
    """What a step of a method took and kept, in a sentence without its end; empty where no benchmark tells it."""
    if method not in ROWS:
        return ""
    step, kept = (_measured(row, method) for row in ROWS[method])
    taps = ", from kept taps" if method in KEPT_TAPS else ""
    more = f" and keeps {kept} for backward" if kept else ""
    return f"a step on ViT-S/16 with 16 images{taps} takes {step}{more} on the processor of the benchmarks"


def table() -> str:
    """Both tables: where to begin, with what it costs, and what came of it on three data sets."""
    heads = ["your case", "begin with", "why", "parameters, ViT-B/16", "a step", "kept for backward"]
    rows = [f"| {' | '.join(heads)} |", "|---|---|---|--:|--:|--:|"]
    counts = _counts()
    for when, name, why in SITUATIONS:
        step, kept = (_measured(row, name) for row in ROWS.get(name, ("", "")))
        taps = " *" if name in KEPT_TAPS else ""
        shown = [f"{step}{taps}" if step else "–", kept or "–"]
        cells = [when, f"[`{name}`](methods/{name}.md)", why, counts[name], *shown]
        rows.append(f"| {' | '.join(cells)} |")
    note = "\\* from kept taps: the frozen part ran before."
    return "\n".join([*rows, "", note, "", "## What came of it", "", _tried()])


def _counts() -> dict[str, str]:
    """The parameters on ViT-B/16 by method, as the page of methods has them."""
    text = (DOCS / "methods.md").read_text(encoding="utf-8")
    found = re.findall(r"^\| \[`(\w+)`\]\(methods/\w+\.md\) \| [^|]* \| ([^|]*) \|", text, flags=re.MULTILINE)
    return dict(found)


def _tried() -> str:
    """The table of how full fine-tuning fares beside others, as the page of methods has it."""
    text = (DOCS / "methods.md").read_text(encoding="utf-8")
    section = text.partition("## Is full fine-tuning given a fair chance?\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    if not lines:
        raise ValueError("docs/methods.md: has no table under 'Is full fine-tuning given a fair chance?'.")
    return "\n".join(lines)


def _measured(row: str, method: str) -> str:
    """The time or the bytes in the row of the benchmarks that begins so; empty where none is asked for.

    Raises:
        ValueError: the page has no such row.
    """
    if not row:
        return ""
    text = (DOCS / "benchmarks.md").read_text(encoding="utf-8")
    found = re.search(rf"^\| {re.escape(row)}[^|]* \| ([^|]+) \| ([^|]+) \|", text, flags=re.MULTILINE)
    if found is None:
        raise ValueError(f"docs/benchmarks.md: has no row '{row}', which scripts/choosing.py asks for.")
    return found[2 if method in PEERS else 1]
