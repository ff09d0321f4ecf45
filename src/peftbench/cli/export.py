"""`peftbench export`: a tuned model as a file for elsewhere."""

from __future__ import annotations

from peftbench.cli.words import NEEDED, given

USAGE = (
    "peftbench export run=FOLDER format=safetensors|onnx|torch_export|peft [out=PATH] [force=true] "
    "[merge=dense|masked] [weights=FILE]"
)
_KNOWN = {"run": NEEDED, "format": NEEDED, "out": None, "force": False, "merge": None, "weights": None}


def run(arguments: list[str]) -> int:
    """Writes the file and says where it is. Raises UserError where this run cannot be exported so."""
    want = given(arguments, "export", _KNOWN, USAGE)

    from peftbench.tuned.export import export

    made = export(
        want["run"],
        want["format"],
        want["out"],
        force=want["force"],
        merge=want["merge"] or True,
        weights=want["weights"],
        config_dir=want["config_dir"],
    )
    off = "" if made.difference is None else f": logits on photographs within {made.difference:.1g} of the model's"
    print(f"{made.path}{off}")
    return 0
