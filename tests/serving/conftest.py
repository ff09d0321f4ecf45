"""Three small runs on one backbone behind a server, in this process."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.finished_runs import finish, pictures
from support.serving import TOKEN, Serving


@pytest.fixture(scope="package")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Path], Path]:
    """(the folders of the runs, by the names of their tasks; the folder of images)."""
    data = pictures(tmp_path_factory.mktemp("pictures"), train=8, test=6)
    words = {"losa": ["losa"], "other": ["losa", "seed=1"], "linear": ["linear"], "lora": ["lora", "method.rank=4"]}
    folders = {}
    for name, (method, *more) in words.items():
        record = finish(
            tmp_path_factory.mktemp(name), data, method, "vit_nano", "optimizer.lr=1e-2", "trainer.max_batches=2", *more
        )
        folders[name] = Path(record.folder)
    return folders, data


@pytest.fixture(scope="module")
def serving(trained: tuple[dict[str, Path], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """`losa`, `linear` and `lora`, whose folders a test may change."""
    for library in ("fastapi", "uvicorn", "python_multipart", "prometheus_client", "httpx"):
        pytest.importorskip(library, reason="pip install 'peftbench[serve]' httpx")
    import peftbench
    from peftbench.serving.limits import Limits
    from peftbench.serving.server import bound, serve
    from peftbench.serving.service import Service

    folders, data = trained
    copies = {}
    for name in ("losa", "linear", "lora"):
        copies[name] = tmp_path_factory.mktemp("served") / folders[name].name
        shutil.copytree(folders[name], copies[name])
    said: list[str] = []
    limits = Limits(body=1_000_000, pixels=1_000_000, images=8, seconds=2, queue=64)
    service = Service(peftbench.MultiTask(None, copies), limits, TOKEN, said.append)
    taken, ready = bound("127.0.0.1", 0), threading.Event()
    address: list[str] = []

    def is_ready(url: str) -> None:
        address.append(url)
        ready.set()

    thread = threading.Thread(target=serve, args=(service, taken, "127.0.0.1", is_ready))
    thread.start()
    assert ready.wait(30)
    yield Serving(address[0], service, said, copies, data)
    service.stopping = True
    thread.join(30)
    assert not thread.is_alive()
