"""`peftbench export`: a tuned model as a file for elsewhere."""

from __future__ import annotations

from peftbench.cli.arguments import CONFIG_DIR, Argument, Command, Words
from peftbench.common.status_line import doing, doing_import


def write_export(words: Words) -> int:
    """Writes the file and says where it is. Raises UserError where this run cannot be exported so."""
    from peftbench.tuned.run_folder import export_place, read_finished, refuse_merge

    folder, _, _ = read_finished(words["run"], words["config_dir"])
    export_place(folder, words["format"], words["out"], words["force"])
    refuse_merge(words["format"], words["merge"] or True)
    doing_import("torch")
    from peftbench.tuned.export import export

    doing(f"exporting {folder.name}")
    made = export(
        words["run"],
        words["format"],
        words["out"],
        force=words["force"],
        inside=words["inside"],
        merge=words["merge"] or True,
        weights=words["weights"],
        config_dir=words["config_dir"],
    )
    off = (
        ""
        if made.difference is None
        else f": its answers on photographs are within {made.difference:.1g} of the model's"
    )
    print(f"{made.path}{off}")
    return 0


COMMAND = Command(
    "export",
    "a tuned model as a file for elsewhere",
    write_export,
    (
        Argument("run", "the folder of a finished run", kind="run", needed=True),
        Argument("format", "of the file", needed=True, choices=("safetensors", "onnx", "torch_export", "peft")),
        Argument("out", "the file, or for peft the folder; by default in the run's folder", kind="file"),
        Argument("force", "replace what is there", kind="flag", default=False),
        Argument(
            "inside",
            "what the graph does to an image: normalise it, or resize it too",
            default="normalise",
            choices=("normalise", "all"),
        ),
        Argument("merge", "how a pruned backbone takes the update", choices=("dense", "masked")),
        Argument("weights", "the backbone's weights, where the run's own are gone", kind="file"),
        CONFIG_DIR,
    ),
    examples=(
        "peftbench export run=outputs/RUN format=onnx",
        "peftbench export run=outputs/RUN format=onnx inside=all",
        "peftbench export run=outputs/RUN format=safetensors out=tuned.safetensors",
    ),
)
