"""Files that appear whole or not at all."""

import pytest

from peftbench.common.atomic_files import replacing
from peftbench.common.errors import UserError


def test_a_file_takes_its_place_when_it_is_whole(tmp_path):
    path = tmp_path / "deeper" / "file.txt"
    with replacing(path) as part:
        part.write_text("first")
        assert not path.exists()
    with replacing(path) as part:
        part.write_text("second")
        assert path.read_text() == "first"
    assert path.read_text() == "second"
    assert [p.name for p in path.parent.iterdir()] == ["file.txt"]


def test_whatever_goes_wrong_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")

    def write_half(problem: Exception) -> None:
        with replacing(path) as part:
            part.write_text("half")
            raise problem

    with pytest.raises(KeyError):
        write_half(KeyError())
    with pytest.raises(UserError) as refusal:
        write_half(OSError(28, "No space left on device"))
    assert str(refusal.value) == (
        f"{path}: could not be written (No space left on device); what was there before is kept."
    )
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file.txt"]


def test_the_sentence_is_that_of_whoever_writes(tmp_path):
    (tmp_path / "taken").write_text("mine")
    with (
        pytest.raises(UserError) as refusal,
        replacing(tmp_path / "taken" / "{file}", lambda why: f"output={{file}}: cannot be written ({why})."),
    ):
        pytest.fail("there is no folder to write to")
    assert str(refusal.value).startswith("output={file}: cannot be written (")
