"""A key that is added to the config leaves every id as it was, until somebody gives it another value."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import peftbench
from peftbench.config import identity

LATER = {
    "config/schema.py": ("    nodes: Positive = 1\n", "    nodes: Positive = 1\n    later: tuple[int, ...] = (1, 2)\n"),
    "methods/lora.py": ("    rank: Positive = ", "    later: float = 0\n    rank: Positive = "),
    "data/digits.py": ("    def load(self)", "    later: bool = False\n\n    def load(self)"),
    "tasks/classification/schema.py": ("    label_smoothing: ", "    later: str | None = None\n    label_smoothing: "),
}
IDS = """
import json, sys
import peftbench
from peftbench.config import run_id
print(json.dumps([run_id(peftbench.compose(*words), "f", "s") for words in json.loads(sys.argv[1])]))
"""


def ids(source: Path, *runs: list[str]) -> list[str]:
    """The ids of runs under the package in `source`."""
    done = subprocess.run(
        [sys.executable, "-c", IDS, json.dumps(runs)],
        env=os.environ | {"PYTHONPATH": str(source)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def later(tmp_path_factory) -> Path:
    """A copy of the package with a new key in a section, a method, a data set and a task."""
    ours, source = Path(peftbench.__file__).parent, tmp_path_factory.mktemp("later")
    shutil.copytree(ours, source / "peftbench", ignore=shutil.ignore_patterns("__pycache__", "*.safetensors", "photos"))
    for file, (line, lines) in LATER.items():
        text = (source / "peftbench" / file).read_text()
        assert text.count(line) == 1, file
        (source / "peftbench" / file).write_text(text.replace(line, lines))
    return source


def test_new_keys_leave_ids_alone_until_they_are_used(later):
    base = ["data=digits", "method=lora"]
    (before,) = ids(Path(peftbench.__file__).parents[1], base)
    as_before = [
        base,
        [*base, "+trainer.later=[1,2]", "+method.later=0", "+data.later=false", "+task.later=null"],
    ]
    others = [
        [*base, "+trainer.later=[1]"],
        [*base, "+method.later=0.5"],
        [*base, "+data.later=true"],
        [*base, "+task.later=x"],
    ]
    known = ids(later, *as_before, *others)
    assert known[:2] == [before, before]
    assert len({before, *known}) == 5


METHOD = """
from dataclasses import dataclass
from peftbench.methods.base import Method

@dataclass(frozen=True)
class Mine(Method):
    kind: str = "all"
"""


def test_all_options_of_a_method_from_outside_are_in_the_id(tmp_path, monkeypatch):
    (tmp_path / "outside_method.py").write_text(METHOD)
    monkeypatch.syspath_prepend(tmp_path)
    config = peftbench.compose("data=digits", "method=full", "method.path=outside_method.Mine")
    assert identity(config)["method"]["options"] == {"kind": "all"}
