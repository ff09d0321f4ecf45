"""`peftbench push`: what goes up, what stays here, and a server that says no."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from peftbench.cli.main import main
from peftbench.results.model_card import MARK
from peftbench.tuned.pushing import gather
from peftbench.tuned.run_folder import read_finished
from support.hub import TOKEN, hub


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    """A copy of a run on images of a folder, exported; the folder of its images."""
    folder = tmp_path_factory.mktemp("out") / "me_and_mine" / trained[0].name
    shutil.copytree(trained[0], folder)
    assert main(["export", f"run={folder}", "format=safetensors"]) == 0
    return folder, trained[1]


def pushed(*words, **environment):
    """(status, what it said, what it said of errors), in a process of its own: the Hub's address is read at once."""
    known = {"HF_HUB_OFFLINE": "0", "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1"}
    told = subprocess.run(
        [sys.executable, "-m", "peftbench", "push", *map(str, words)],
        env={**os.environ, **known, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    return told.returncode, told.stdout, told.stderr


@pytest.mark.slow
def test_a_run_is_pushed_with_card_config_and_record_and_no_place_of_this_machine(exported):
    folder, data = exported
    with hub() as server:
        words = [f"run={folder}", "repo=me/digits", "private=true"]
        status, said, errors = pushed(*words, HF_ENDPOINT=server.address)
        assert status == 0, errors
        files = server.files["me/digits"]
        assert set(files) == {
            *("README.md", "config.yaml", "result.json", "model.safetensors", "model.safetensors.preprocess.json")
        }
        assert files["model.safetensors"] == (folder / "model.safetensors").read_bytes()
        assert server.private["me/digits"]
        assert folder.name in server.messages[0]
        assert server.address in said
        assert "data.root" in said
        for name, content in files.items():
            assert str(data).encode() not in content, name
            assert str(folder.parent).encode() not in content, name
        assert yaml.safe_load(files["config.yaml"])["data"]["options"]["root"] == "FOLDER"
        assert pushed(*words, HF_ENDPOINT=server.address)[0] == 0  # its own card may be replaced
        server.files["me/digits"]["README.md"] = b"# mine\n"
        status, _, errors = pushed(*words, HF_ENDPOINT=server.address)
        assert status == 2
        assert "has a README.md that peftbench did not write" in errors
        assert server.files["me/digits"]["README.md"] == b"# mine\n"
        server.private["me/digits"] = False
        status, _, errors = pushed(*words, "force=true", HF_ENDPOINT=server.address)
        assert status == 2
        assert "anybody may read it" in errors
        assert pushed(*words[:2], "force=true", HF_ENDPOINT=server.address)[0] == 0
        assert MARK.encode() in server.files["me/digits"]["README.md"]


def test_a_dry_push_sends_nothing(exported, capsys):
    folder, _ = exported
    capsys.readouterr()
    assert main(["push", f"run={folder}", "repo=me/digits", "dry=true"]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in ("README.md", "config.yaml", "result.json", "model.safetensors"))
    assert "nothing was sent" in said


def test_what_goes_with_an_export_goes_up_and_what_is_no_longer_the_export_does_not(exported, tmp_path, capsys):
    folder = Path(shutil.copytree(exported[0], tmp_path / "run"))
    (folder / "model.safetensors").unlink()
    contents = {name: name.encode() for name in ("model.int8.onnx", "model.xml", "model.bin")}
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    for name in ("model.int8.onnx", "model.xml"):
        (folder / f"{name}.preprocess.json").write_text(json.dumps({"file": name, "sha256": hashes}))
    files = gather(*read_finished(folder)).files
    assert set(files) >= {*contents, "model.int8.onnx.preprocess.json", "model.xml.preprocess.json"}
    assert all(name in files["README.md"].decode() for name in ("model.int8.onnx", "model.xml"))
    words = ["push", f"run={folder}", "repo=me/digits", "dry=true"]
    capsys.readouterr()
    (folder / "model.bin").write_bytes(b"another")
    assert main(words) == 2
    assert "model.bin: is not the file that was exported" in capsys.readouterr().err
    (folder / "model.bin").unlink()
    assert main(words) == 2
    assert "model.bin: is gone, and model.xml is of no use without it" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("refused", "status", "says"),
    [("create", 403, "does not let this token write"), ("commit", 400, "said 400")],
)
def test_a_server_that_says_no_is_one_sentence(exported, refused, status, says):
    folder, _ = exported
    with hub() as server:
        server.refuses[refused] = status
        code, _, errors = pushed(f"run={folder}", "repo=me/digits", HF_ENDPOINT=server.address)
    assert code == 2
    assert says in errors
    assert len(errors.strip().splitlines()) == 1


@pytest.mark.slow
def test_a_server_that_is_not_there_is_one_sentence(exported):
    folder, _ = exported
    code, _, errors = pushed(f"run={folder}", "repo=me/digits", HF_ENDPOINT="http://127.0.0.1:9")
    assert code == 2
    assert "cannot be reached" in errors
    assert len(errors.strip().splitlines()) == 1


@pytest.mark.parametrize("name", ["a/b/c", "-x", "me/..", "me/a b", "x" * 97, "", "a--b"])
def test_a_name_that_no_repository_has_is_refused(exported, name, capsys):
    assert main(["push", f"run={exported[0]}", f"repo={name}"]) == 2
    assert "repo" in capsys.readouterr().err


def test_what_cannot_be_pushed_is_refused(run, exported, stopped, tmp_path, capsys):
    plain, _ = run
    assert main(["push", f"run={plain}", "repo=me/x"]) == 2
    assert "holds no exported file" in capsys.readouterr().err
    assert main(["push", f"run={exported[0]}", "repo=me/x", "format=onnx"]) == 2
    assert "format=onnx: " in capsys.readouterr().err
    _, unfinished = stopped
    assert main(["push", f"run={unfinished}", "repo=me/x"]) == 2
    assert "holds no result.json" in capsys.readouterr().err
    copy = Path(shutil.copytree(exported[0], tmp_path / "copy"))
    with (copy / "model.safetensors").open("ab") as file:
        file.write(str(exported[1]).encode())
    (copy / "model.safetensors.preprocess.json").unlink()  # there are no hashes where an earlier version exported it
    assert main(["push", f"run={copy}", "repo=me/x", "dry=true"]) == 2
    assert "a path of this machine" in capsys.readouterr().err
