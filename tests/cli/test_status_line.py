"""What is being done, in one line on a terminal, and nothing of it anywhere else."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys

import pytest

from peftbench.common.status_line import doing, status_line

WHERE = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
ERASED = "\r\x1b[2K"


class Terminal:
    """A terminal of our own, and all that was written to it."""

    def __init__(self) -> None:
        self.ours, self.theirs = pty.openpty()
        os.set_blocking(self.ours, False)
        self.stream = open(self.theirs, "w", closefd=False)  # noqa: SIM115 - closed below

    def text(self) -> str:
        parts = []
        self.stream.flush()
        try:
            while part := os.read(self.ours, 65536):
                parts.append(part)
        except OSError:
            pass
        return b"".join(parts).decode()

    def close(self) -> None:
        self.stream.close()
        os.close(self.theirs)
        os.close(self.ours)


@pytest.fixture
def terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    opened = Terminal()
    yield opened
    opened.close()


def shown(text: str) -> list[str]:
    """Each thing that the line said."""
    return re.findall(r"\x1b\[2K([^\r\n]+?) …", text)


def screen(text: str) -> str:
    """What is left in the end."""
    lines = [line.rpartition(ERASED)[2].rstrip("\r") for line in text.split("\n")]
    return "\n".join(line for line in lines if line)


def test_a_run_on_a_terminal_says_what_it_does_and_leaves_nothing_of_it(cli, tiny, monkeypatch, terminal):
    monkeypatch.setattr(sys, "stderr", terminal.stream)
    words = [word for word in tiny if "progress" not in word]
    assert cli(*words, "method=linear", "taps=off")[0] == 0
    text = terminal.text()
    said = shown(text)
    assert said[0] == "reading the configuration"
    assert [s for s in said if "weights of resnet_nano" in s or "digits" in s or "train" in s] == [
        "reading the lists of data=digits",
        "reading the weights of resnet_nano",
        "reading the bytes of data=digits, for their hash",
        "beginning to train",
    ]
    assert screen(text) == ""
    assert cli(*tiny, "method=linear", "seed=1")[0] == 0
    assert terminal.text() == "", "trainer.progress=false"


def test_the_line_is_there_before_torch_is(terminal, tmp_path):
    (tmp_path / "torch.py").write_text("import os\nos._exit(7)\n")  # in whose place it ends the process
    paths = os.pathsep.join([str(tmp_path), *sys.path])
    done = subprocess.run(
        [sys.executable, "-m", "peftbench", "method=linear", "data=digits", f"output_dir={tmp_path}"],
        env=os.environ | {"PYTHONPATH": paths},
        stdout=subprocess.PIPE,
        stderr=terminal.theirs,
        check=False,
    )
    assert done.returncode == 7
    said = shown(terminal.text())
    assert said == ["reading the configuration", "reading the lists of data=digits", "loading torch"]
    assert b"loading" not in done.stdout


def test_what_is_printed_takes_the_place_of_the_line(terminal, monkeypatch):
    monkeypatch.setattr(sys, "stderr", terminal.stream)
    monkeypatch.setattr(sys, "stdout", terminal.stream)
    doing("nothing that anybody sees")
    with status_line():
        doing("x" * 300)
        print("one")
        print("two", file=sys.stderr)
        doing("more")
    text = terminal.text()
    assert screen(text) == "one\ntwo"
    assert max(map(len, re.split(r"[\r\n]", text))) < 100, "a line that wraps cannot be erased"
    assert sys.stdout is terminal.stream


@pytest.mark.parametrize("words", [["list", "methods"], ["data", "check", "vtab", "dir=/nowhere"]])
def test_nothing_is_shown_where_the_output_goes_elsewhere(capsys, words):
    from peftbench.cli.main import main

    main(words)
    told = capsys.readouterr()
    assert "\x1b" not in told.out + told.err
    assert "looking" not in told.err


def test_importing_it_takes_nothing():
    code = "import sys, peftbench.common.status_line; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True, env=WHERE)
    assert not {"rich", "torch", "hydra", "threading"} & {name.partition(".")[0] for name in done.stdout.split()}
