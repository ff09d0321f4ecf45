"""Completion: what is offered for the last of some words, and the scripts that bring it to a shell."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from peftbench.cli.main import main
from peftbench.cli.verbs import VERBS
from peftbench.common.config_files import names
from peftbench.config import CONFIGS

FORMATS = ("safetensors", "onnx", "openvino", "torch_export", "executorch", "coreml", "peft")


@pytest.fixture
def offered(capsys, monkeypatch, tmp_path):
    """`offered(*words)`: what the last word may become, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def ask(*words: str) -> list[str]:
        capsys.readouterr()
        assert main(["completion", "words", "--", *words]) == 0
        told = capsys.readouterr()
        assert told.err == ""
        return told.out.splitlines()

    return ask


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["pre"], {"predict"}),
        (["met"], {"method=", "method."}),
        (["method=los"], {"method=losa"}),
        (["method=lora,lo"], {f"method=lora,{n}" for n in ("logreg", "lora", "lora_plus", "losa")}),
        (["data=vtab/ci"], {"data=vtab/cifar"}),
        (["-m", "experiment=vt"], {"experiment=vtab1k"}),
        (["hydra/swee"], {"hydra/sweeper="}),
        (["hydra/sweeper="], {"hydra/sweeper=optuna"}),
        (["optimizer.l"], {"optimizer.lr=", "optimizer.layer_decay=", "optimizer.library="}),
        (["data.si"], {"data.size="}),
        (["method.ra"], {"method.rank="}),
        (["method=full", "method.ra"], set()),
        (["method=losa", "method.tap_l"], {"method.tap_last="}),
        (["task=detection", "task.dete"], {"task.detector="}),
        (["data=digits_det", "task.dete"], {"task.detector="}),
        (["experiment=vtab1k", "method=losa", "method.tap_l"], {"method.tap_last="}),
        (["+data.si"], {"+data.size="}),
        (["~data.si"], {"~data.size"}),
        (["trainer.progress="], {"trainer.progress=true", "trainer.progress=false"}),
        (["data.stage="], {"data.stage=fit", "data.stage=tune", "data.stage=final"}),
        (["sweep.to"], {"sweep.together="}),
        (["--mul"], {"--multirun"}),
        (["-m", "--cfg", ""], {"job", "hydra", "all"}),
        (["nonsense", "pro"], {"protocol=", "protocol."}),
        (["predict", "im"], {"images="}),
        (["predict", "top"], {"top_k="}),
        (["predict", "--sc"], {"--score="}),
        (["predict", "device=c"], {"device=cpu", "device=cuda"}),
        (["export", "format=o"], {"format=onnx", "format=openvino"}),
        (["export", "format="], {f"format={f}" for f in FORMATS}),
        (["report", "--format", "h"], {"html"}),
        (["report", "--format=h"], {"--format=html"}),
        (["report", "--inc"], {"--incomplete"}),
        (["report", "incomplete="], {"incomplete=true", "incomplete=false"}),
        (["list", ""], {"methods", "backbones", "data"}),
        (["taps", ""], {"list", "clear"}),
        (["data", ""], {"prepare", "check", "sources", "convert"}),
        (["data", "prepare", "vtab/cif"], {"vtab/cifar"}),
        (["data", "convert", "v"], {"voc"}),
        (["data", "check", "stage="], {"stage=fit", "stage=tune", "stage=final"}),
        (["plan", "method=lor"], {"method=lora", "method=lora_plus"}),
        (["plan", "--j"], {"--json"}),
        (["completion", ""], {"bash", "zsh", "fish"}),
        (["help", "qq"], set()),
        (["--config-dir", "/nowhere", "method=l"], set()),
        (["data", "nonsense", ""], set()),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_words_are_completed(offered, words, expected):
    assert set(offered(*words)) == expected


@pytest.mark.parametrize("words", [[], [""]])
def test_the_first_word_is_a_verb_or_a_key(offered, words):
    assert {*VERBS, "method=", "data=", "seed=", "hydra/launcher="} <= set(offered(*words))


@pytest.mark.parametrize("group", ["method", "backbone", "data", "trainer", "optimizer", "experiment", "protocol"])
def test_every_name_of_a_group_is_offered(offered, group):
    assert set(offered(f"{group}=")) == {f"{group}={name}" for name in names(group, [CONFIGS])}


def test_every_key_that_is_offered_is_one_of_the_composed_config(offered):
    import peftbench
    from peftbench.common.config_files import roots
    from peftbench.config.logger_schema import SCHEMAS as TRACKERS
    from peftbench.config.near_keys import known_keys  # what a mistaken key is compared with

    sections = ("method", "backbone", "data", "task", "optimizer", "trainer", "taps", "logger", "pruning")
    words = ["method=losa", "data=digits"]
    composed = {key for key in known_keys(words, roots()) if key.partition(".")[0] in sections and key.count(".") == 1}
    keys = {word.rstrip("=") for section in sections for word in offered(*words, f"{section}.")}
    for key in composed - keys:
        assert key.partition(".")[2] in ("name", "path", "tasks", *TRACKERS), f"{key} is not offered"
    of_two = set(offered("logger=[csv,wandb]", "logger."))
    assert of_two == {f"logger.wandb.{key}=" for key in ("project", "group", "tags")}
    assert peftbench.compose(*words, *(f"{key}={{}}" for key in keys if key.startswith("backbone.args")))


def test_names_of_your_own_configs_are_offered(offered, tmp_path):
    (tmp_path / "mine" / "method").mkdir(parents=True)
    (tmp_path / "mine" / "method" / "mymethod.yaml").write_text("# Mine\nname: mymethod\npath: nowhere.Mine\nknob: 3\n")
    assert offered("--config-dir", "m") == ["mine/"]
    assert offered("--config-dir", "mine", "method=my") == ["method=mymethod"]
    assert offered("--config-dir=mine", "method=mymethod", "method.k") == ["method.knob="]


def test_folders_with_a_record_come_alone_for_a_run(offered, tmp_path):
    for name in ("outputs/lora-1", "outputs/losa-2", "outputs/.sweeps", "outputs/other", "others"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "outputs" / "notes.txt").write_text("")
    assert offered("predict", "run=out") == ["run=outputs/"]
    assert offered("predict", "run=outputs/") == ["run=outputs/lora-1/", "run=outputs/losa-2/", "run=outputs/other/"]
    for name in ("lora-1", "losa-2"):
        (tmp_path / "outputs" / name / "result.json").write_text("{}")
    assert offered("predict", "run=outputs/") == ["run=outputs/lora-1", "run=outputs/losa-2"]
    assert offered("predict", "run=outputs/los") == ["run=outputs/losa-2"]
    assert offered("export", "--run", "outputs/lor") == ["outputs/lora-1"]
    assert offered("layers", "outputs/lor") == ["outputs/lora-1"]
    assert offered("predict", "images=outputs/n") == ["images=outputs/notes.txt"]
    assert offered("predict", "draw=outputs/n") == []
    assert offered("data.root=oth") == ["data.root=others/"]


# -- shells


@pytest.fixture
def program(tmp_path) -> Path:
    """A folder with the program `peftbench`, as an installation has it."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "peftbench").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m peftbench "$@"\n')
    (folder / "peftbench").chmod(0o755)
    return folder


def shell(program: Path, name: str, script: str, folder: Path) -> str:
    if sys.platform == "win32":
        pytest.skip("the program of these tests is a shell script")
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed")
    done = subprocess.run(
        [name, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        cwd=folder,
        env=os.environ | {"PATH": f"{program}:{os.environ['PATH']}"},
    )
    assert done.stderr == ""
    return done.stdout


# The words as bash hands them over, which splits at = and :, and the line.
BASH = """. ./completion.bash
set -u
COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); COMP_LINE={line}; COMP_POINT=${{#COMP_LINE}}
_peftbench peftbench
printf '%s\\n' "${{COMPREPLY[@]-}}"
"""


@pytest.mark.parametrize(
    ("words", "line", "expected"),
    [
        (["pred"], "peftbench pred", ["predict"]),
        (["method", "=", "lor"], "peftbench method=lor", ["lora", "lora_plus"]),
        (["hydra/sweeper", "="], "peftbench hydra/sweeper=", ["optuna"]),
        (["-m", "method", "=", "full,lor"], "peftbench  -m method=full,lor", ["full,lora", "full,lora_plus"]),
        (["method", "=", "losa", "method.tap_l"], "peftbench method=losa method.tap_l", ["method.tap_last="]),
        (["report", "--format", "=", "h"], "peftbench report --format=h", ["html"]),
        (["report", "--format", "h"], "peftbench report --format h", ["html"]),
        (["taps", "''"], "peftbench taps ", ["clear", "list"]),
        (["predict", "images", "=", "a"], "peftbench predict images=a", ["a:c.png", "a\\ b/"]),
        (["predict", "images", "=", "a", ":"], "peftbench predict images=a:", ["c.png"]),
        (["predict", "images", "=", "'a\\ b/'"], "peftbench predict images=a\\\\ b/", ["a\\ b/x.png"]),
        (["--config-dir", "/nowhere", "method", "=", "lo"], "peftbench --config-dir /nowhere method=lo", [""]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bash_completes(program, capsys, tmp_path, words, line, expected):
    assert main(["completion", "bash"]) == 0
    (tmp_path / "completion.bash").write_text(capsys.readouterr().out)
    (tmp_path / "a b").mkdir()
    (tmp_path / "a b" / "x.png").write_text("")
    (tmp_path / "a:c.png").write_text("")
    script = BASH.format(words=" ".join(["peftbench", *words]), line=f'"{line}"')
    assert shell(program, "bash", script, tmp_path).splitlines() == expected


def test_bash_completes_on_a_line_of_its_own(program, tmp_path):
    """As it is typed: bash itself splits the words, and takes what is offered."""
    script = 'eval "$(peftbench completion bash)"\ncomplete -p peftbench'
    assert "_peftbench" in shell(program, "bash", script, tmp_path)


def test_zsh_completes(program, tmp_path):
    script = """compadd() { [[ $1 == -S ]] && shift 2; shift; print -rl -- "$@" }
compdef() { : }
eval "$(peftbench completion zsh)"
words=(peftbench method=lor); CURRENT=2
_peftbench
words=(peftbench met); CURRENT=2
_peftbench
"""
    assert shell(program, "zsh", script, tmp_path).split() == ["method=lora", "method=lora_plus", "method.", "method="]


def test_fish_completes(program, tmp_path):
    script = "peftbench completion fish | source; complete -C 'peftbench method=lor'"
    assert shell(program, "fish", script, tmp_path).split() == ["method=lora", "method=lora_plus"]


@pytest.mark.parametrize("name", ["bash", "zsh", "fish"])
def test_a_script_is_printed_alone(capsys, name):
    assert main(["completion", name]) == 0
    told = capsys.readouterr()
    assert "completion words -- " in told.out
    assert told.err == ""


def test_an_error_of_peftbench_itself_is_not_hidden(monkeypatch):
    def broken(words):
        raise RuntimeError("a defect")

    monkeypatch.setattr("peftbench.cli.candidates.candidates", broken)
    with pytest.raises(RuntimeError, match="a defect"):
        main(["completion", "words", "--", "met"])


@pytest.mark.parametrize(
    "words",
    [
        ["--config-dir=nowhere", "met"],
        ["method=", "method.r"],
        ["method=lora,losa", "method.r"],
        ["method=none_such", "method."],
        ["data=[", "data."],
        ["a=${b", "c.d="],
        ["=", "="],
        ["~", "+"],
        ["optimizer.lr=x", "optimizer.l"],
        ["backbone.cfg={a:", "backbone.c"],
        ["choose", "--max-memory", ""],
        ["data", "prepare", "--"],
        ["data", "nothing", "x"],
        ["help", ""],
    ],
)
def test_words_that_are_not_typed_to_their_end_are_no_error(offered, words):
    offered(*words)
