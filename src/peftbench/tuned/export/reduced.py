"""A file in fp16 or int8: written by its runtime's tools, tried on images of the run, stamped with what it loses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from peftbench.common.errors import UserError
from peftbench.common.notes import note
from peftbench.tuned.export.graph import Sample
from peftbench.tuned.export.precisions import LOST, Measured, calibration, measured, write_reduced
from peftbench.tuned.export.traced import answers_of
from peftbench.tuned.load import Tuned


@dataclass(frozen=True)
class Reduced:
    """What is to be written.

    Attributes:
        precision: fp16 or int8.
        form: the format.
        tuned: what is exported.
        tested: the run's model, as it was tested.
        sample: photos, with its answers.
        told: what the file says of itself, but for what is found out here.
        images: how many images int8 is calibrated on.
    """

    precision: str
    form: str
    tuned: Tuned
    tested: Tuned
    sample: Sample
    told: Mapping[str, str]
    images: int

    def write(self, part: Path) -> tuple[float, Measured | None, str]:
        """Writes the file; (how far its logits are from the model's, what it loses on images, why to keep it apart).

        Raises:
            UserError: a library is missing, or the run's training images are, which int8 needs.
            Refusal: the runtime's tool does not take this model.
        """
        told, run = dict(self.told), self.tested.run
        drawn = calibration(run, self.tuned, self.images) if self.precision == "int8" else None
        if drawn is not None:
            told |= drawn.told()
        stamp, any_size = write_reduced(
            self.precision, self.form, self.tuned, self.sample, part, None if drawn is None else drawn.images
        )
        answer = answers_of(part)
        difference = self.sample.distance(answer, any_size)
        try:
            found = measured(run, self.tested, answer)
        except UserError as problem:  # the weights are there, and the images are not
            note(f"precision={self.precision}: what it loses was not measured: {problem}")
            stamp(told)
            return difference, None, ""
        told |= found.told()
        warning = ""
        if found.lost > LOST:
            warning = (
                f"loses {100 * found.lost:.1f} points of {found.metric} on {found.images} {found.split} images "
                f"({found.file:.4f}, the model {found.model:.4f}), so it is kept apart; more images to calibrate on "
                f"(calibration={4 * self.images}) or precision=fp16 may lose less."
            )
            told |= {"warning": warning}
        stamp(told)
        return difference, found, warning
