"""Names of published forms: the option that a name stands for is there, or the name is refused."""

import pytest
import yaml

import peftbench
from peftbench.common.config_files import names
from peftbench.config import CONFIGS
from peftbench.config.declared_fields import class_constant
from peftbench.config.identity import identity
from support.backbones import composed, method

METHODS = {name: yaml.safe_load(file.read_text("utf-8")) for name, file in names("method", [CONFIGS]).items()}
PATHS = {name: content.get("method", content)["path"] for name, content in METHODS.items()}
PUBLISHED = {
    (name, option): value
    for name, path in PATHS.items()
    for option, value in class_constant(path, "published", "path").get(name, {}).items()
}
OTHER = {True: "false", "pissa": "olora", "olora": "zero", "parallel": "post", "post": "pre", "houlsby": "post"}
OTHER |= {"tk": "tt", "ln": "last_k", "attn_proj": "ln", "channel": "fixed", "shallow": "deep", 16.0: "1"}


@pytest.mark.parametrize(("name", "option"), PUBLISHED)
def test_a_name_without_the_option_that_it_stands_for_is_refused(name, option):
    value, spec = PUBLISHED[name, option], composed(f"method={name}").method
    assert spec.options[option] == value, "its YAML has it"
    other = "[norm.weight]" if value == [] else OTHER[value]
    general = spec.path.split(".")[-2]
    told = rf"method\.{option}=.*: method={name} is method={general} with .*take method={general} with the options"
    with pytest.raises(peftbench.UserError, match=told) as raised:
        composed(f"method={name}", f"method.{option}={other}")
    assert "\n" not in str(raised.value)
    composed(f"method={general}", f"method.{option}={other}")


def test_every_name_of_a_class_but_its_own_and_an_alias_says_what_it_stands_for():
    shared = {name for name, path in PATHS.items() if path.split(".")[-2] != name and name != "spt"}
    assert shared == {name for name, _ in PUBLISHED}


def test_other_options_of_a_published_form_are_free():
    assert method("lora_plus", "method.lr_ratio=4").lr_ratio == 4
    assert method("dora", "method.init=pissa", "method.rank=2").init == "pissa"
    options = identity(composed("method=dora"))["method"]["options"]
    assert options["dora"] is True
    assert "published" not in options
