"""A classifier on new labelled images: accuracy, figures of each class, AUROC and calibration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from peftbench.data.labelled import Known, Labelled, classes_known, read_classes
from peftbench.results import class_figures
from peftbench.results.resampled import Ranked, mean_area
from peftbench.tasks.evaluator import Evaluator, Judged, Table, columns, percent, with_interval, without_images


class ClassEvaluator(Evaluator):
    """Predictions are logits (N, classes), over all classes of the run."""

    calibrates: ClassVar[bool] = True

    def read(self, images: str | Path, labels: str | Path | None, classes: Sequence[str]) -> Labelled:
        return read_classes(images, labels)

    def known(self, labelled: Labelled, classes: Sequence[str], categories: Sequence[int], unknown: str) -> Known:
        return classes_known(labelled, classes, unknown)

    def headline(self, judged: Judged) -> dict[str, float]:
        said = judged.predictions.numpy().argmax(1)
        return class_figures.means(judged.labels, said, len(judged.classes))

    def notes(self, judged: Judged, figures: Mapping[str, Any]) -> list[str]:
        notes = without_images(judged, np.bincount(judged.labels, minlength=len(judged.classes)) > 0)
        fitted = figures["calibration"].get("temperature")
        if fitted and class_figures.is_at_an_end(fitted["value"]):
            low, high = class_figures.TEMPERATURES
            notes.append(
                f"the temperature stopped at {fitted['value']:.3g}, an end of its range ({low:g} to {high:g}), and is "
                f"no fit: the run's validation images are all right, too few, or the logits say nothing of them"
            )
        return notes

    def figures(self, judged: Judged) -> dict[str, Any]:
        logits, labels, classes = judged.predictions.numpy(), judged.labels, judged.classes
        probabilities, said = class_figures.probabilities_of(logits), logits.argmax(1)
        confusion = class_figures.confusion_of(labels, said, len(classes))
        of_class = labels[:, None] == np.arange(len(classes))
        areas = [class_figures.auroc(probabilities[:, i], of_class[:, i]) for i in range(len(classes))]
        rows, columns_ = np.nonzero(confusion)
        there = confusion.sum(1)
        return {
            **self.headline(judged),
            "auroc": float(np.mean(known)) if (known := [area for area in areas if area is not None]) else None,
            "intervals": {
                **class_figures.intervals(labels, said, len(classes), judged.seed),
                "auroc": mean_area(probabilities, of_class, Ranked.auroc, judged.seed),
            },
            "classes": [
                {"name": name, "images": int(there[i]), **row, "auroc": areas[i]}
                for i, (name, row) in enumerate(zip(classes, class_figures.by_class(confusion), strict=True))
            ],
            "confusion": [
                [classes[row], classes[column], int(confusion[row, column])]
                for row, column in zip(rows.tolist(), columns_.tolist(), strict=True)
            ],
            "calibration": {**_calibration(logits, labels), **_tempered(judged)},
        }

    def lines(self, figures: Mapping[str, Any]) -> list[str]:
        words = {
            "accuracy": "accuracy",
            "class_accuracy": "mean over classes",
            "f1": "F1, mean over classes",
            "auroc": "AUROC, one class against the others",
        }
        lines = [with_interval(told, figures[name], figures["intervals"][name]) for name, told in words.items()]
        calibration = figures["calibration"]
        lines.append(f"expected calibration error: {percent(calibration['error'])} points")
        if fitted := calibration.get("temperature"):
            lines.append(
                f"with temperature {fitted['value']:.3g}, fitted on {fitted['images']:,} validation images of the run: "
                f"{percent(fitted['error'])} points"
            )
        return lines + columns(figures["classes"], ("images", "precision", "recall", "f1", "auroc"))

    def tables(self, figures: Mapping[str, Any]) -> Mapping[str, Table]:
        """The confusion matrix: a row for each true class, a column for what was said."""
        names = [row["name"] for row in figures["classes"]]
        counts = {(true, said): number for true, said, number in figures["confusion"]}
        rows = [[true, *(counts.get((true, said), 0) for said in names)] for true in names]
        return {"confusion": [["true \\ said", *names], *rows]}


def _calibration(logits: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    probabilities = class_figures.probabilities_of(logits)
    curve = class_figures.reliability(probabilities.max(1), probabilities.argmax(1) == labels)
    return {"error": class_figures.calibration_error(curve), "curve": curve}


def _tempered(judged: Judged) -> dict[str, Any]:
    """The same with a temperature that was fitted on the validation images; nothing where there are none."""
    held_out = judged.held_out
    if held_out is None:
        return {}
    theirs, logits = held_out.predictions.numpy(), judged.predictions.numpy()
    value = class_figures.fitted_temperature(theirs, held_out.labels)
    return {
        "temperature": {
            "value": value,
            "images": len(held_out.labels),
            "hash": held_out.split.content,
            "cross_entropy_there": [class_figures.cross_entropy(theirs, held_out.labels, t) for t in (1.0, value)],
            **_calibration(logits / value, judged.labels),
        }
    }
