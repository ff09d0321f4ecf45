"""What every run does and no test looks at is done once in a process, so that the tests are quick."""

from __future__ import annotations

import copy
import gc
import inspect
import os
import pickle
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any
from unittest import mock

_NOT_KNOWN = object()


@contextmanager
def shipped_yaml_once() -> Iterator[None]:
    """Hydra parses its own YAML and ours anew whenever it composes, and tests compose thousands of times."""
    import hydra
    from omegaconf import OmegaConf

    from peftbench.config import CONFIGS

    shipped = tuple(f"{folder.resolve()}{os.sep}" for folder in (CONFIGS, Path(hydra.__file__).parent))
    parse: Any = OmegaConf.load
    parsed: dict[str, bytes] = {}

    def load(file: Any) -> Any:
        name = str(getattr(file, "name", file))
        if not name.startswith(shipped):
            return parse(file)
        if name not in parsed:
            parsed[name] = pickle.dumps(parse(file))
        return pickle.loads(parsed[name])

    with mock.patch.object(OmegaConf, "load", staticmethod(load)):
        yield


class Shortcuts:
    """Taken as soon as what they shorten is imported; `facts_known` says whether facts may be taken from before."""

    def __init__(self) -> None:
        self.facts_known = True
        self._imported = self._tests = 0
        self._facts: dict[Any, Any] = {}
        self._patched: set[str] = set()

    def take(self) -> None:
        """Takes those that are not taken yet; costs nothing unless much was imported, or many tests ran, since then."""
        self._tests += 1
        imported = len(sys.modules) > self._imported + 50
        if imported or self._tests % 100 == 0:
            self._pass_over_old_objects()
        if imported:
            self._measure_latency_once()
            self._learn_facts_once()
            self._build_shapes_once()
            self._parse_interpolations_once()
            self._parse_words_once()
            self._compose_choices_once()
            self._read_digits_once()
            self._imported = len(sys.modules)

    def _pass_over_old_objects(self) -> None:
        """From here on no garbage collection, of which each run makes one, looks at what is there by now."""
        gc.collect()
        gc.freeze()

    def _parse_interpolations_once(self) -> None:
        """Of OmegaConf: Hydra's config has some thirty, and each parse of one takes 0.3 ms."""
        grammar: Any = sys.modules.get("omegaconf.grammar_parser")
        if grammar is None or "grammar" in self._patched:
            return
        self._patched.add("grammar")
        parse, parsed = grammar.parse, lru_cache(maxsize=None)(grammar.parse)
        for name, module in list(sys.modules.items()):
            if name.startswith("omegaconf") and getattr(module, "parse", None) is parse:
                module.parse = parsed

    def _parse_words_once(self) -> None:
        """Of Hydra: the words of most tests are those of others, and each word takes 1 ms."""
        module: Any = sys.modules.get("hydra.core.override_parser.overrides_parser")
        if module is None or "words" in self._patched:
            return
        self._patched.add("words")
        parse = module.OverridesParser.parse_rule
        parsed: dict[tuple[str, str], Any] = {}

        def parsed_once(self: Any, word: str, rule: str) -> Any:
            if (word, rule) not in parsed:
                parsed[word, rule] = parse(self, word, rule)
            return copy.deepcopy(parsed[word, rule])

        module.OverridesParser.parse_rule = parsed_once

    def _read_digits_once(self) -> None:
        """Of scikit-learn: its digits are a table of text."""
        datasets: Any = sys.modules.get("sklearn.datasets")
        if datasets is None or "digits" in self._patched:
            return
        self._patched.add("digits")
        read = lru_cache(maxsize=None)(datasets.load_digits)
        datasets.load_digits = lambda **how: copy.deepcopy(read(**how))

    def _compose_choices_once(self) -> None:
        """Of Hydra: what choices of groups make of peftbench's own files. Keys and values are set anew each time."""
        module: Any = sys.modules.get("hydra._internal.config_loader_impl")
        if module is None or "choices" in self._patched:
            return
        from peftbench.config import CONFIGS

        self._patched.add("choices")
        listed, loader = module.create_defaults_list, module.ConfigLoaderImpl
        composed, files = loader._compose_config_from_defaults_list, f"{CONFIGS.resolve()}"
        lists: dict[Any, Any] = {}
        configs: dict[int, bytes] = {}

        def is_shipped(source: Any) -> bool:
            return source.scheme() in ("pkg", "structured") or os.path.realpath(source.path) == files

        def listed_once(repo: Any, config_name: Any, overrides_list: Any, **how: Any) -> Any:
            chosen = [o.input_line for o in overrides_list if repo.group_exists(o.key_or_group)]
            sources = repo.get_sources()
            key = (config_name, *how.values(), *((source.provider, source.path) for source in sources), *chosen)
            if key not in lists:
                made = listed(repo=repo, config_name=config_name, overrides_list=overrides_list, **how)
                if not all(map(is_shipped, sources)):
                    return made
                lists[key] = made
            made = lists[key]
            set_by_key = type(made.overrides)(repo=repo, overrides_list=overrides_list).config_overrides
            return replace(made, config_overrides=set_by_key)

        def composed_once(self: Any, defaults: Any, repo: Any) -> Any:
            if not any(defaults is made.defaults for made in lists.values()):
                return composed(self, defaults=defaults, repo=repo)
            if id(defaults) not in configs:
                configs[id(defaults)] = pickle.dumps(composed(self, defaults=defaults, repo=repo))
            return pickle.loads(configs[id(defaults)])

        module.create_defaults_list = listed_once
        loader._compose_config_from_defaults_list = composed_once

    def _build_shapes_once(self) -> None:
        """Models on the meta device, which have nothing but shapes: a copy takes a quarter of the time."""
        timm: Any = sys.modules.get("timm")
        if timm is None or "shapes" in self._patched:
            return
        import torch

        self._patched.add("shapes")
        create, made = timm.create_model, {}

        def created(*names: Any, **options: Any) -> Any:
            if not self.facts_known or torch.get_default_device().type != "meta":
                return create(*names, **options)
            key = (names, repr(sorted(options.items())))
            if key not in made:
                made[key] = create(*names, **options)
            return copy.deepcopy(made[key])

        timm.create_model = created

    def _measure_latency_once(self) -> None:
        """Of a finished model: no test depends on the value, which is else a median of 20."""
        if compute := sys.modules.get("peftbench.costs.compute"):
            inspect.unwrap(compute.latency).__defaults__ = (1, 2.0)  # type: ignore[attr-defined]

    def _learn_facts_once(self) -> None:
        """Of each backbone: tests build the same few thousands of times, and each run builds its own twice."""
        module: Any = sys.modules.get("peftbench.backbones.backbone")
        if module is None or "facts" in self._patched:
            return
        self._patched.add("facts")
        learn = module.learn_facts

        def learned(net: Any, *about: Any) -> Any:
            if not self.facts_known:
                return learn(net, *about)
            shapes = tuple((name, tuple(tensor.shape)) for name, tensor in net.state_dict().items())
            cfg = net.pretrained_cfg
            key = (type(net), about, shapes, repr(getattr(net, "global_pool", None)), str(cfg["mean"]), str(cfg["std"]))
            key = (*key, cfg.get("interpolation"))
            facts = self._facts.get(key, _NOT_KNOWN)
            if facts is _NOT_KNOWN:
                facts = self._facts[key] = learn(net, *about)
            return facts

        module.learn_facts = learned
