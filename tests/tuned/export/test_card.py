"""The model card of an exported file."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

import peftbench
from peftbench.cli.main import main
from peftbench.results.model_card import CardFile, model_card
from peftbench.results.record import read_record
from peftbench.results.stats import share_interval


@pytest.fixture
def exported(lora, tmp_path):
    folder = Path(shutil.copytree(lora.folder, tmp_path / "run"))
    assert main(["export", f"run={folder}", "format=safetensors"]) == 0
    return folder


def parts(text):
    """(the front matter, the body)."""
    _, front, body = text.split("---\n", 2)
    return yaml.safe_load(front), body


def test_an_export_has_a_card_with_figures_intervals_and_the_command(exported, lora, data):
    card = (exported / "model.safetensors.card.md").read_text()
    front, body = parts(card)
    accuracy = lora.metrics["test/accuracy"]
    (result,) = front["model-index"][0]["results"]
    assert {m["type"]: m["value"] for m in result["metrics"]}["accuracy"] == accuracy
    assert front["pipeline_tag"] == "image-classification"
    assert front["metrics"] == ["accuracy"]
    low, high = share_interval(accuracy, 120)
    assert f"{100 * low:.1f} to {100 * high:.1f} % of 120 test images" in body
    assert "licence: not stated" in body
    assert all(word in body for word in ("zero", "one", "two", "three"))
    assert str(data) not in card
    (command,) = [line for line in body.splitlines() if line.startswith("peftbench ")]
    again = peftbench.compose(*command.split()[1:])
    assert (again.method, again.optimizer) == (peftbench.load(exported).run.config.method, again.optimizer)
    assert again.data.options["root"] == "FOLDER"
    assert "trainable parameters of the method" in body


def test_a_card_is_not_replaced_unless_asked(exported, capsys):
    card = exported / "model.safetensors.card.md"
    card.write_text("mine")
    (exported / "model.safetensors").unlink()
    (exported / "model.safetensors.preprocess.json").unlink()
    assert main(["export", f"run={exported}", "format=safetensors"]) == 2
    assert "its model card would be" in capsys.readouterr().err
    assert card.read_text() == "mine"
    assert not (exported / "model.safetensors").exists()
    assert main(["export", f"run={exported}", "format=safetensors", "force=true"]) == 0
    assert card.read_text().startswith("---\n")


def test_names_of_classes_cannot_write_markdown_or_yaml(lora):
    names = ["a](http://x) <script>", "`|b\n# c", "---\nlicense: mit", "© \u202e", "!!python/object:os.system"]
    record = read_record(Path(lora.folder))
    record.config["choices"]["data"] = "--- \nlicense: mit"
    record.config["method"]["name"] = "x: [y"
    text = model_card(record, names, ["peftbench", "'```'"], [CardFile("m|n.onnx", "onnx")], "free |\n# text")
    front, body = parts(text)
    assert front["license"] == "unknown"
    assert front["tags"][1] == "x: [y"
    assert "<script>" not in body.replace("\\<script\\>", "")
    assert "\n# c" not in body
    assert "\n# text" not in body
    assert r"a\]\(http:\//x\)" in body
    assert r"m\|n.onnx" in body
    assert "````\n" in body


def test_the_licence_of_the_data_is_what_the_config_says(lora, tmp_path):
    folder = Path(shutil.copytree(lora.folder, tmp_path / "run"))
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["data"]["licence"] = "CC BY 4.0"
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    assert main(["export", f"run={folder}", "format=safetensors"]) == 0  # it is no part of what binds the delta
    assert "licence: CC BY 4.0" in (folder / "model.safetensors.card.md").read_text()
    assert json.loads((folder / "result.json").read_text())["id"] == lora.id
