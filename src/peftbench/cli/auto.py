"""`peftbench auto data=… minutes=…`: from labelled images and some minutes to the best model that they allow."""

from __future__ import annotations

import time

from peftbench.cli.arguments import CONFIG_DIR, Argument, Command, Words
from peftbench.common.config_files import search_path
from peftbench.common.status_line import doing
from peftbench.common.terminal import visible

_LIMITS = ("memory", "max_latency", "max_params", "backbones", "methods", "prior")


def print_answer(words: Words) -> int:
    """Prints each decision and the answer; 130 where it was stopped before there was one, 1 where none came.

    Raises:
        UserError: the words had a mistake.
    """
    begun = time.monotonic()
    doing("reading the configuration")
    from peftbench.answering.asked import Asked
    from peftbench.answering.finding import find_model
    from peftbench.answering.page import write_page
    from peftbench.answering.telling import lines_of

    asked = Asked.read(
        words=(*words.overrides, *search_path(words["config_dir"])),
        minutes=words["minutes"],
        limits={key: words[key] for key in _LIMITS},
        force=words["force"],
        download=words["download"],
    )
    answered = find_model(asked, begun, _say)
    if answered.answer is None and answered.stopped:
        _say("stopped before anything was judged; the same command goes on from here.")
        return 130
    if answered.answer is None:
        _say("no model could be trained on all images; the lines above say why.")
        return 1
    lines = lines_of(answered)
    write_page(answered, lines)
    _say("\n" + "\n".join(lines))
    return 0


def _say(text: str) -> None:
    print(visible(text), flush=True)


COMMAND = Command(
    "auto",
    "from labelled images and minutes to the best model that they allow",
    print_answer,
    (
        Argument("minutes", "that the answer may take, all of it", kind="number", needed=True, placeholder="30"),
        Argument("memory", "that a step and the weights may take", placeholder="8GB"),
        Argument("max_latency", "of predicting for one image", placeholder="20ms"),
        Argument("max_params", "parameters of the method, head apart", placeholder="1M"),
        Argument("backbones", "the only ones to try", placeholder="[…]"),
        Argument("methods", "the only ones to try", placeholder="[…]"),
        Argument("download", "weights may be fetched from the hub, which is asked once", kind="flag", default=False),
        Argument("prior", "none: earlier records do not change what is tried first", placeholder="none"),
        Argument("force", "begin anew; the answer that was there is kept aside", kind="flag", default=False),
        CONFIG_DIR,
    ),
    takes_overrides=True,
    described_overrides=("data=…",),
    overrides_help="and other keys of the data, the task, the trainer, seed= and output_dir=",
    description="Looks at the images, probes the backbones whose weights are here, trains side nets and, with time,\n"
    "the backbone, and tests the winner once. The same command goes on after it was ended.",
    examples=(
        "peftbench auto data=photos minutes=3",
        "peftbench auto data=folder data.root=~/photos minutes=30 memory=8GB max_latency=20ms max_params=1M",
    ),
)
