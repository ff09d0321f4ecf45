"""Two finished runs to export."""

import pytest

from support.finished_runs import finish, pictures


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    return pictures(tmp_path_factory.mktemp("pictures"), train=40, test=30)


@pytest.fixture(scope="session")
def lora(data, tmp_path_factory):
    words = ["optimizer.lr=3e-3", "trainer.epochs=2", "data.normalize=imagenet"]
    return finish(tmp_path_factory.mktemp("lora"), data, "lora", "vit_nano", *words)
