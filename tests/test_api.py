"""What Python's functions are given in the place of words, a config or a folder: one sentence says what they take."""

import pytest

import peftbench


@pytest.mark.parametrize(
    ("word", "told"),
    [
        (["method=lora"], r"was given a list; .*compose\(\*words\)"),
        (("method=lora",), r"was given a tuple; .*compose\(\*words\)"),
        ({"method": "lora"}, r"was given a dict; write a word for each key"),
        (3, r"was given an int; such as"),
        (None, r"was given None; such as"),
    ],
)
def test_words_that_are_no_text_are_refused(word, told):
    with pytest.raises(peftbench.UserError, match=rf"^compose: takes words, each a text, and {told}"):
        peftbench.compose("backbone=vit_nano", word)


@pytest.mark.parametrize(
    ("word", "given"),
    [
        ("--epochs=3", "trainer.epochs=3"),
        ("--trainer.max-batches=2", "trainer.max_batches=2"),
        ("--method=lora", "method=lora"),
    ],
)
def test_words_with_dashes_are_answered_with_the_key(word, given):
    with pytest.raises(peftbench.UserError) as refused:
        peftbench.compose(word)
    assert str(refused.value) == f"{word}: keys have no dashes here; give {given}."


@pytest.mark.parametrize("name", ["run", "build_backbone"])
@pytest.mark.parametrize(
    ("config", "told"), [("method=lora", "the text 'method=lora'"), ({}, "a dict"), (None, "None")]
)
def test_what_is_no_config_is_refused_with_the_way_to_make_one(name, config, told):
    with pytest.raises(peftbench.UserError) as refused:
        getattr(peftbench, name)(config)
    assert str(refused.value).startswith(f"{name}: takes a config, and was given {told}; make one with peftbench.comp")


@pytest.mark.parametrize(("folder", "told"), [(None, "None"), (3, "an int"), ({}, "a dict")])
def test_what_is_no_folder_of_a_run_is_refused(folder, told):
    for load in (peftbench.load, lambda run: peftbench.MultiTask(None, {"cars": run})):
        with pytest.raises(peftbench.UserError, match=rf"^run: is the folder of a run, .* given is {told}\.$"):
            load(folder)


def test_tasks_take_a_backbone_and_folders():
    with pytest.raises(peftbench.UserError, match=r"backbone is the text 'vit_nano'; expected what peftbench\.build"):
        peftbench.MultiTask("vit_nano", ["outputs/a"])
    with pytest.raises(peftbench.UserError, match="deltas is an int; expected a list of folders"):
        peftbench.MultiTask(None, 3)
