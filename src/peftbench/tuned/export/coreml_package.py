"""Core ML's packages by coremltools, from a traced program. They run on Apple's systems only."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from peftbench.common.notes import note
from peftbench.tuned.export.graph import Sample
from peftbench.tuned.export.lacking import lacks
from peftbench.tuned.export.traced import described, quiet, traced
from peftbench.tuned.load import Tuned
from peftbench.tuned.runtimes.base import library

LARGEST_BATCH = 32
"""Core ML wants bounds of an axis that is open."""


def to_coreml(tuned: Tuned, sample: Sample, path: Path, told: Mapping[str, str], half: bool = False) -> None:
    """Writes a package. It cannot be run here, so nothing compares it with the model; a note says so.

    Args:
        tuned: what is exported.
        sample: photos, for their shape.
        path: the package, a folder.
        told: what it says of itself.
        half: whether it computes in fp16; else in fp32.

    Raises:
        UserError: coremltools is missing.
        Refusal: the model cannot be traced, or holds an operator that coremltools has not.
    """
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)  # it warns of what it cannot load away from Apple's systems while it is imported
    try:
        coreml = library("coremltools", "coreml")
    finally:
        logging.disable(before)
    program, _ = traced(tuned, sample, "coreml", most=LARGEST_BATCH)
    with quiet():
        try:
            package = coreml.convert(
                program.run_decompositions({}),
                convert_to="mlprogram",
                compute_precision=coreml.precision.FLOAT16 if half else coreml.precision.FLOAT32,
                minimum_deployment_target=coreml.target.iOS17,
                outputs=[coreml.TensorType(name="logits")],
            )
        except Exception as problem:  # whatever operator has no translation
            raise lacks("coreml", described(tuned), program, problem) from None
        package.user_defined_metadata.update({**told, "largest_batch": str(LARGEST_BATCH)})
        package.save(str(path))
    note(
        f"format=coreml: {path.name} was converted and not run: Core ML runs on Apple's systems only, so compare its "
        f"answers there with the run's."
    )
