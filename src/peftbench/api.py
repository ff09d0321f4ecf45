"""What `import peftbench` offers."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from peftbench.common.errors import UserError
from peftbench.config import Config, replaced
from peftbench.methods.base import Method, Plan
from peftbench.results import Record
from peftbench.runs.build import instantiate
from peftbench.runs.compatibility import refuse_incompatible

if TYPE_CHECKING:
    from peftbench.answering.finding import Answered


def run(config: Config, group: str | None = None, retry: bool = True) -> Record:
    """Carries out one run and returns its record; a run whose record is complete is read, not repeated.

    With `page=true` in its config the run's page is written too, as the command line does.

    Args:
        config: what `peftbench.compose` gives.
        group: the sweep that the run belongs to, if any.
        retry: whether a run that failed before is tried again; else its record is read.

    Upon Ctrl-C, SIGTERM and SIGHUP the record says `interrupted`, and nothing is raised.

    Raises:
        UserError: see the message; where the run had begun, its record says `failed` or `refused` with the reason.
    """
    from peftbench.runs.run import run as carry_out

    record = carry_out(config, group, retry)
    if config.page:
        from peftbench.tuned.run_page import write_asked_pages

        write_asked_pages([config], [record], print)
    return record


def auto(
    *words: str,
    minutes: float,
    memory: str | float | None = None,
    max_latency: str | float | None = None,
    max_params: str | float | None = None,
    backbones: Sequence[str] = (),
    methods: Sequence[str] = (),
    download: bool = False,
    prior: bool = True,
    force: bool = False,
    tell: Callable[[str], None] = lambda line: None,
) -> Answered:
    """From labelled images and minutes to the best model that they allow, as `peftbench auto`; its page is written too.

        answered = peftbench.auto("data=folder", "data.root=~/photos", minutes=30)
        print(answered.test, answered.test_interval)
        tuned = peftbench.load(answered.run)

    Args:
        words: overrides of the data, the task, the trainer, the seed and `output_dir`.
        minutes: that the answer may take, over all calls with the same question.
        memory: bytes of a step and the weights at most, or text such as "8GB".
        max_latency: milliseconds of predicting for one image at most, or text such as "20ms".
        max_params: parameters of the method at most, head apart, or text such as "1M".
        backbones: the only ones to try.
        methods: the only ones to try.
        download: whether weights may be fetched from the hub.
        prior: whether earlier records under `output_dir` may change what is tried first.
        force: begin anew; the answer that was there is kept aside.
        tell: is given each decision as it is made, as a line.

    Ctrl-C ends the search, and the best so far becomes the answer. What takes longer than foretold is ended by the
    clock in the main thread alone.

    Raises:
        UserError: a question that cannot be answered, or data that changed since an earlier call.
    """
    begun = time.monotonic()
    from peftbench.answering.asked import Asked
    from peftbench.answering.finding import find_model
    from peftbench.answering.page import write_page
    from peftbench.answering.telling import lines_of

    if isinstance(backbones, str) or isinstance(methods, str):
        raise UserError("auto: backbones and methods are lists of names, such as backbones=['vit_nano'].")
    limits = {
        "memory": _as_text(memory),
        "max_latency": _as_text(max_latency),
        "max_params": _as_text(max_params),
        "backbones": f"[{','.join(backbones)}]" if backbones else None,
        "methods": f"[{','.join(methods)}]" if methods else None,
        "prior": None if prior else "none",
    }
    answered = find_model(Asked.read(words, minutes, limits, force, download), begun, tell)
    if answered.answer is not None:
        write_page(answered, lines_of(answered))
    return answered


def _as_text(limit: str | float | None) -> str | None:
    return limit if limit is None or isinstance(limit, str) else f"{limit:f}"


def count_parameters(method: str, backbone: str, **overrides: Any) -> int:
    """The method's own trainable parameters (head apart), without weights or data: what a run reports.

    `overrides` are options of the method, such as `rank=4`.

        >>> peftbench.count_parameters("lora", "vit_b", rank=8)
        1179648

    Raises:
        UserError: there is no such method, backbone or option, or an option cannot have this value.
    """
    from peftbench.config.compose import compose

    for key, value in overrides.items():
        try:
            json.dumps(value)
        except (TypeError, ValueError):
            raise UserError(
                f"method.{key}={value!r}: expected a number, a string, true, false, null or a list."
            ) from None
    config = replaced(
        compose(f"method={method}", f"backbone={backbone}"), {f"method.{k}": v for k, v in overrides.items()}
    )
    built: Method = instantiate(config.method)
    meta = refuse_incompatible(config, built)
    side = built.adapt(meta, Plan())
    trained = [*meta.parameters(), *(side.parameters() if side is not None else ())]
    return sum(p.numel() for p in trained if p.requires_grad)
