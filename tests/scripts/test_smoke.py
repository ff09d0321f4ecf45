"""What the smoke runs cover."""

import importlib.util

from peftbench.common.config_files import names
from peftbench.common.task_lookup import shipped_tasks
from peftbench.config import CONFIGS
from support.places import ROOT

spec = importlib.util.spec_from_file_location("smoke_script", ROOT / "scripts" / "smoke.py")
smoke = importlib.util.module_from_spec(spec)
spec.loader.exec_module(smoke)


def test_every_method_is_tried_and_one_name_of_each_class_everywhere():
    first, others = smoke.names_of_classes()
    assert sorted([*first, *others]) == sorted(names("method", [CONFIGS]))
    assert {"lora", "adapter", "partial"} <= set(first)
    assert {"dora", "houlsby", "apla"} <= set(others)
    tried = list(smoke.sweeps())
    for task_words in smoke.words_of_tasks().values():
        assert {m for methods, _, words in tried if words == task_words for m in methods} == {*first, *others}
    everywhere = [words for _, backbones, words in tried if backbones == [*smoke.BACKBONES.values()]]
    several = ("classification", "detection", "segmentation")
    assert {smoke.words_of_tasks()[task] for task in several} == set(everywhere)


def test_other_forms_of_a_task_are_tried_where_their_library_is(monkeypatch, capsys):
    monkeypatch.setattr(smoke.importlib.util, "find_spec", lambda name: None)
    assert smoke.variants_there("segmentation") == []
    assert (
        "task.decoder=upernet is not tried, since segmentation_models_pytorch is not installed"
        in capsys.readouterr().out
    )
    monkeypatch.setattr(smoke.importlib.util, "find_spec", lambda name: name)
    (*_, (methods, backbones, words)) = [s for s in smoke.sweeps() if "data=digits_seg" in s[2]]
    assert (methods, len(backbones), words) == (smoke.FEW, 2, ("data=digits_seg", "task.decoder=deeplabv3plus"))


def test_every_shipped_task_says_which_data_set_it_is_tried_on():
    words = smoke.words_of_tasks()
    assert set(words) == set(shipped_tasks())
    for task_words in words.values():
        chosen = dict(word.split("=", 1) for word in task_words)
        assert chosen["data"] in names("data", [CONFIGS])
