"""`peftbench evaluate`: a finished run on new labelled images."""

from __future__ import annotations

from peftbench.cli.arguments import CONFIG_DIR, Argument, Command, Words
from peftbench.common.status_line import doing, doing_import


def write_evaluation(words: Words) -> int:
    """Evaluates the run, prints the figures and says where the record is. Raises UserError."""
    from peftbench.tuned.run_folder import read_finished

    folder, _, _ = read_finished(words["run"], words["config_dir"])
    doing_import("torch")
    from rich.console import Console

    from peftbench.common.progress import counted
    from peftbench.tuned.evaluating import evaluate, lines_of
    from peftbench.tuned.finished_run import open_run

    doing(f"evaluating {folder.name}")
    run = open_run(words["run"], words["config_dir"])
    with counted(Console(stderr=True), "evaluating", True) as watch:
        evaluation = evaluate(
            run,
            words["images"],
            words["labels"],
            unknown=words["unknown"],
            seed=words["seed"],
            device=words["device"],
            weights=words["weights"],
            config_dir=words["config_dir"],
            watch=watch,
        )
    for line in lines_of(run, evaluation):
        print(line)
    was_there = "this evaluation is there already: " if evaluation.was_there else ""
    print(f"{was_there}{evaluation.path}")
    return 0


COMMAND = Command(
    "evaluate",
    "a finished run on new labelled images",
    write_evaluation,
    (
        Argument("run", "the folder of a finished run", kind="run", needed=True),
        Argument("images", "class folders, or where the CSV's images lie", kind="folder", needed=True),
        Argument("labels", "a CSV with the columns path and label", kind="file", placeholder="FILE.csv", shown=True),
        Argument("unknown", "images whose label the run does not know", default="refuse", choices=("refuse", "skip")),
        Argument("seed", "of the bootstrap intervals", kind="whole number", default=0),
        Argument("device", "cpu, cuda, cuda:1, mps", default="auto", suggestions=("auto", "cpu", "cuda", "mps")),
        Argument("weights", "the backbone's weights, if they have moved", kind="file"),
        CONFIG_DIR,
    ),
    description="Accuracy, figures of each class, the confusion matrix, AUROC and calibration, in a record beside the "
    "run's. Classes are matched by name.",
    examples=(
        "peftbench evaluate run=outputs/RUN images=labelled",
        "peftbench evaluate run=outputs/RUN images=labelled unknown=skip",
    ),
)
