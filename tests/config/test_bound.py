"""What a delta is bound to, and which key of a config is named where it says another thing."""

import dataclasses
import json

import peftbench
from peftbench.config import bound_values, edited_key


def test_a_key_that_came_after_a_delta_must_have_its_default():
    spec = peftbench.compose("method=linear", "backbone=resnet_nano", "data=digits")
    bound = json.loads(json.dumps(bound_values(spec)))
    assert edited_key(bound, spec) is None
    del bound["trainer.clip"]  # as if it had come after
    assert edited_key(bound, spec) is None
    clipped = dataclasses.replace(spec, trainer=dataclasses.replace(spec.trainer, clip=1.0))
    assert edited_key(bound, clipped) == ("trainer.clip", None, 1.0)


def test_places_and_what_is_of_no_effect_are_free():
    words = ("method=linear", "backbone=resnet_nano", "data=folder", "data.root=/here")
    bound = json.loads(json.dumps(bound_values(peftbench.compose(*words))))
    free = ("data.root=/there", "data.workers=3", "taps=disk", "backbone.weights=/moved.safetensors", "logger=none")
    assert edited_key(bound, peftbench.compose(*words, *free, "output_dir=elsewhere")) is None
    assert edited_key(bound, peftbench.compose(*words, "taps=off")) == ("taps.mode", "kept", "off")
    assert edited_key(bound, peftbench.compose(*words, "data.val_fraction=0.3")) == ("data.val_fraction", 0.1, 0.3)
