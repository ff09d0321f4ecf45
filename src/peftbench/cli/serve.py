"""`peftbench serve`: finished runs behind HTTP."""

from __future__ import annotations

import importlib
import os
import sys

from peftbench.cli.arguments import CONFIG_DIR, Argument, Command, Words
from peftbench.cli.named_runs import RUNS, named_runs, read_all
from peftbench.common.errors import UserError
from peftbench.common.status_line import doing, doing_import, no_status_line
from peftbench.common.terminal import visible

TOKEN = "PEFTBENCH_TOKEN"
"""The variable of the environment that holds the token, where no other user can read it."""


def serve_runs(words: Words) -> int:
    """Serves until it is told to stop.

    Raises:
        UserError: a library is missing, a run is not finished or of another backbone, or the address cannot be taken.
    """
    runs = named_runs(words["runs"])
    token = _token(words)
    for library, package in (("fastapi",) * 2, ("uvicorn",) * 2, ("python_multipart", "python-multipart")):
        _require(library, package)
    _require("prometheus_client", "prometheus-client")
    read_all(runs, words["config_dir"])
    from peftbench.serving.limits import Limits
    from peftbench.serving.server import bound, is_loopback

    limits = Limits(
        body=round(words["max_mb"] * 1_000_000),
        pixels=round(words["max_megapixels"] * 1_000_000),
        images=words["max_images"],
        seconds=words["timeout"],
        queue=words["queue"],
        batch=words["batch"],
    )
    host = words["host"]
    if not token and not is_loopback(host):
        raise UserError(
            f"host={host}: is reached from other machines, and no token is set; give {TOKEN} in the environment, or "
            f"host=127.0.0.1."
        )
    taken = bound(host, words["port"])
    doing_import("torch")
    from peftbench.serving.application import refuse_names
    from peftbench.serving.server import serve
    from peftbench.serving.service import Service
    from peftbench.tuned.load import choose_device
    from peftbench.tuned.multitask import MultiTask

    refuse_names(list(runs))
    device = choose_device(words["device"])
    doing("building the models")
    tasks = MultiTask(None, runs, words["config_dir"]).to(device)
    if tasks.frames is not None:
        raise UserError(f"runs={words['runs']}: are of clips, and images are served; peftbench predict applies them.")
    no_status_line()

    def ready(url: str) -> None:
        print(visible(f"serving {', '.join(runs)} on {url}"), flush=True)

    serve(Service(tasks, limits, token, _tell), taken, host, ready)
    print("stopped; all that was asked is answered", flush=True)
    return 0


def _tell(sentence: str) -> None:
    print(visible(sentence), file=sys.stderr, flush=True)


def _token(words: Words) -> str:
    """The token, of the words or of the environment; empty for none. Raises UserError."""
    token = words["token"] or os.environ.get(TOKEN, "")
    if token and not all("!" <= letter <= "~" for letter in token):
        raise UserError(
            "token: holds a space, or a letter that no header can hold; expected letters, digits and marks."
        )
    return str(token)


def _require(library: str, package: str) -> None:
    try:
        importlib.import_module(library)
    except ImportError:
        raise UserError(f"serve: needs {package}; pip install 'peftbench[serve]'.") from None


COMMAND = Command(
    "serve",
    "finished runs of one backbone behind HTTP",
    serve_runs,
    (
        RUNS,
        Argument("port", "where it listens; 0 takes any that is free", kind="whole number", default=8000),
        Argument("host", "the address; others than this machine's own need a token", default="127.0.0.1"),
        Argument("token", f"what clients must show; better in {TOKEN}, since ps shows words"),
        Argument("device", "cpu, cuda, cuda:1, mps", default="auto", suggestions=("auto", "cpu", "cuda", "mps")),
        Argument("batch", "images that go through the backbone at once", kind="whole number", default=32),
        Argument("queue", "images that wait at once; more get 429", kind="whole number", default=256),
        Argument("timeout", "seconds for a request to come, and then to be answered", kind="number", default=30.0),
        Argument("max_mb", "megabytes of a request", kind="number", default=20.0),
        Argument("max_megapixels", "of one image", kind="number", default=50.0),
        Argument("max_images", "in one request", kind="whole number", default=32),
        CONFIG_DIR,
    ),
    description="Stops on SIGTERM or Ctrl-C once all that was asked is answered; SIGHUP has every task read its run "
    "again.\nA page to try it is at /, and what it takes at /openapi.json.",
    examples=(
        "peftbench serve runs=[outputs/RUN]",
        "peftbench serve runs=[digits=outputs/RUN,more=outputs/ANOTHER] port=8080",
    ),
)
