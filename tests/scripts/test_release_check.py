"""A release says one version everywhere, and each place that does not is named."""

import importlib
import shutil
import subprocess
import sys

import pytest
import yaml

from support.places import ROOT

SCRIPT = ROOT / "scripts" / "release_check.py"
PLACES = ("src/peftbench/__init__.py", "CITATION.cff", "CHANGELOG.md")


def checked(root, *tag: str) -> tuple[int, str]:
    done = subprocess.run([sys.executable, root / "scripts" / SCRIPT.name, *tag], capture_output=True, text=True)
    assert not done.stderr
    return done.returncode, done.stdout


@pytest.fixture
def release(tmp_path):
    """A copy of what says a version, released today."""
    for name in (*PLACES, "scripts/release_check.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    day = yaml.safe_load((ROOT / "CITATION.cff").read_text())["date-released"]
    changelog = tmp_path / "CHANGELOG.md"
    changelog.write_text(changelog.read_text().replace("(unreleased)", f"({day})", 1))
    return tmp_path


def test_this_tree_says_one_version():
    assert checked(ROOT) == (0, "one version everywhere\n")


def test_a_tag_of_the_version_is_released_once_the_changelog_has_the_day(release):
    version = importlib.import_module("peftbench").__version__
    assert checked(release, f"v{version}") == (0, "one version everywhere\n")
    assert checked(release, "v9.9.9") == (1, f"the tag is v9.9.9, and the package {version}: expected v{version}.\n")


@pytest.mark.parametrize(
    ("place", "line", "by", "told"),
    [
        ("CITATION.cff", "version: 0", "version: 7", "CITATION.cff: says version 7"),
        ("CITATION.cff", "date-released: 2", "date-released: 1", "CITATION.cff: says date-released 1"),
        ("CHANGELOG.md", "## 0", "## 7", "CHANGELOG.md: begins with 7"),
        ("src/peftbench/__init__.py", '__version__ = "', '__version__ = "v', "src/peftbench/__init__.py: has no line"),
    ],
)
def test_what_does_not_agree_is_named(release, place, line, by, told):
    version = importlib.import_module("peftbench").__version__
    path = release / place
    path.write_text(path.read_text().replace(f"\n{line}", f"\n{by}", 1))
    status, output = checked(release, f"v{version}")
    assert status == 1
    assert output.startswith(told)


def test_a_version_that_waits_for_its_day_is_not_released(release):
    version = importlib.import_module("peftbench").__version__
    shutil.copy(ROOT / "CHANGELOG.md", release / "CHANGELOG.md")
    status, output = checked(release, f"v{version}")
    assert (status, f"{version} has no date" in output) == (1, True)


@pytest.mark.parametrize("path", sorted((ROOT / ".github").rglob("*.yml")), ids=lambda path: path.name)
def test_workflows_and_forms_can_be_read(path):
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert content.get("jobs") or content.get("body") or "blank_issues_enabled" in content
    for step in (step for job in content.get("jobs", {}).values() for step in job["steps"]):
        assert ("run" in step) != ("uses" in step)
