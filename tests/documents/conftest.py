"""The stand-ins of the documents' commands, made once."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """See `support.document_world`."""
    from support import document_world

    return document_world.make(tmp_path_factory.mktemp("documents"))
