"""A method that says that it starts as the backbone, and does not, is refused before the first step."""

from __future__ import annotations

import sys
import textwrap

import pytest

from support.mistakes import record, refused, run_folder

LOUD = """
    from dataclasses import dataclass
    from typing import ClassVar

    from peftbench.methods.base import Method, Side, freeze


    class Louder(Side):
        '''Gives the last tap back larger than it is.'''

        def forward(self, taps):
            return [taps[-1] * 1.01]


    @dataclass(frozen=True)
    class Loud(Method):
        '''Changes the second tap of the backbone, in the backbone or beside it, and may say that it does not.'''

        identity_start: ClassVar[bool] = True
        beside: bool = False

        @property
        def side(self):
            return self.beside

        def adapt(self, backbone, plan):
            freeze(backbone)
            if self.beside:
                return Louder()
            second = backbone.net.get_submodule(backbone.facts.taps[1].module)
            second.register_forward_hook(lambda module, given, output: output * 1.01)


    @dataclass(frozen=True)
    class Frank(Loud):
        '''The same, and does not say that it starts as the backbone.'''

        identity_start: ClassVar[bool] = False
"""


@pytest.fixture(autouse=True)
def outside(tmp_path, monkeypatch):
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "loud_methods.py").write_text(textwrap.dedent(LOUD))
    monkeypatch.syspath_prepend(tmp_path / "outside")
    yield
    sys.modules.pop("loud_methods", None)


@pytest.mark.parametrize(("beside", "where"), [("false", "layer1"), ("true", "what it pools")])
def test_a_start_that_is_not_the_backbones_is_refused_with_its_place(cli, tiny, tmp_path, beside, where):
    words = ["method=linear", "method.path=loud_methods.Loud", f"+method.beside={beside}"]
    told = refused(cli(*tiny, *words), "method=linear: the adapted backbone does not start as the untouched one")
    assert f"though the method says so: {where} is " in told
    assert " of its largest value away before any step" in told
    assert record(tmp_path)["status"] == "refused"
    assert not (run_folder(tmp_path) / "delta.safetensors").exists()


def test_a_method_that_does_not_say_so_may_start_elsewhere(cli, tiny, tmp_path):
    assert cli(*tiny, "method=linear", "method.path=loud_methods.Frank")[0] == 0
    assert record(tmp_path)["status"] == "complete"
