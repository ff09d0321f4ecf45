"""The package as a user installs it: everything it needs is inside, wherever it is started from."""

import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_a_wheel_holds_configs_weights_and_photos_and_runs_from_another_folder(tmp_path):
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
        names = archive.namelist()
    assert {"peftbench/configs/train.yaml", "peftbench/py.typed"} <= set(names)
    assert "peftbench/configs/data/vtab/cifar.yaml" in names
    page = ("marks.js", "axes.js", "charts.js", "page.js", "page.css")
    assert {f"peftbench/results/{name}" for name in page} <= set(names)
    assert {"peftbench/configs/hydra/launcher/joblib.yaml", "hydra_plugins/peftbench_optuna/__init__.py"} <= set(names)
    assert "peftbench/backbones/weights/vit_nano.safetensors" in names
    assert "peftbench/tasks/detection/weights/resnet_nano_fasterrcnn.safetensors" in names
    assert sum(n.startswith("peftbench/data/photos/") and n.endswith(".jpg") for n in names) == 500
    assert wheel.stat().st_size < 20e6
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    command = [sys.executable, "-m", "peftbench.cli.main", "debug=smoke", "method=linear", "data=photos"]
    environment = os.environ | {"PYTHONPATH": str(site)}
    where = [sys.executable, "-c", "import peftbench; print(peftbench.__file__)"]
    found = subprocess.run(where, cwd=elsewhere, env=environment, capture_output=True, text=True, check=True).stdout
    assert found.startswith(str(site))
    done = subprocess.run(command, cwd=elsewhere, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert list((elsewhere / "outputs" / "smoke").glob("linear-vit_nano-photos-*/result.json"))


def test_the_lock_pins_with_hashes_and_names_no_host():
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith(("#", " "))]
    assert len(pins) > 60
    assert all("==" in pin and pin.endswith("\\") for pin in pins)
    assert not [line for line in lines if "://" in line]


def test_readme_and_ci_run_the_same_test_command():
    readme, ci = ((ROOT / name).read_text() for name in ("README.md", ".ci/run"))
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    assert "\nmake test " in readme
    assert "\nmake test\n" in ci
    assert "\nmake quickstart\n" in ci
    assert "bash .ci/run" in workflow


def test_dir_shows_what_there_is_before_anything_is_imported():
    code = "import sys, peftbench; print(*dir(peftbench)); print('torch' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    shown, torch = told.splitlines()
    assert {"compose", "run", "load", "MultiTask", "Record", "UserError", "__version__"} <= set(shown.split())
    assert not [name for name in shown.split() if name.startswith("_") and not name.startswith("__")]
    assert torch == "False"


@pytest.mark.slow
def test_types_reach_a_users_script(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import peftbench\n"
        "record = peftbench.run(peftbench.compose('method=lora'))\n"
        "reveal_type(record)\n"
        "reveal_type(peftbench.load('outputs/x').classes)\n"
        "peftbench.compose(3)\n"
    )
    venv.create(tmp_path / "env", with_pip=False)
    (site,) = (tmp_path / "env").glob("lib/python*/site-packages")
    (site / "peftbench.pth").write_text(f"{ROOT / 'src'}\n")  # installed, and nothing else is
    environment = {name: value for name, value in os.environ.items() if name not in ("MYPYPATH", "PYTHONPATH")}
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--python-executable",
        str(tmp_path / "env" / "bin" / "python"),
        "script.py",
    ]
    told = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False).stdout
    assert 'Revealed type is "peftbench.results.record.Record"' in told
    assert "str, ...]" in told
    assert 'script.py:5: error: Argument 1 to "compose" has incompatible type "int"; expected "str"' in told
