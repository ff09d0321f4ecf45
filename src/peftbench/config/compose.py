"""From overrides to a checked config, in Python; and Hydra's complaints in one sentence."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from hydra import compose as hydra_compose
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from peftbench.common.config_files import roots
from peftbench.common.errors import UserError
from peftbench.common.foreign_text import first_sentence
from peftbench.config import Config, resolvers, validate
from peftbench.config.choice_keys import given_key, lacking_choice, no_choice, note_of_own_images
from peftbench.config.given import refuse_no_words
from peftbench.config.near_keys import known_keys, near_key_hint
from peftbench.config.overrides import prepare, readable
from peftbench.config.own_hydra import own_hydra

resolvers.register()


def compose(*overrides: str) -> Config:
    """The config that the command line would compose from the same words; threads may call it at once.

        config = peftbench.compose("method=lora", "backbone=vit_nano", "data=digits", "trainer.epochs=5")

    Raises:
        UserError: what is no word, an unknown choice or key, a wrong type, a combination that cannot work.
    """
    refuse_no_words(overrides)
    with own_hydra():  # its parser is no more made for several threads than its state
        words = prepare(overrides)
        try:
            composed = hydra_compose("train", overrides=words, return_hydra_config=True)
            chosen = composed.hydra.runtime.choices
            return checked(composed, chosen)
        except (HydraException, OmegaConfBaseException) as problem:
            raise explained(problem, words) from None
        except UserError:
            raise
        except Exception as problem:
            raise uncomposable(problem, words) from None


def checked(composed: DictConfig, chosen: Mapping[str, Any]) -> Config:
    """A composed Hydra config, resolved and checked. Raises UserError."""
    from omegaconf import open_dict

    with open_dict(composed):
        for name in ("hydra", "sweep", "protocol"):  # of many runs, not of one
            composed.pop(name, None)
    if missing := sorted(OmegaConf.missing_keys(composed)):
        raise UserError(f"{missing[0]}: needs a value; give {missing[0]}=….")
    values = OmegaConf.to_container(composed, resolve=True)
    assert isinstance(values, dict)
    groups = {k: str(v) for k, v in chosen.items() if k in values and v is not None}
    config = validate({str(k): v for k, v in values.items()}, groups)
    note_of_own_images(config)
    return config


def uncomposable(problem: Exception, words: Sequence[str]) -> UserError:
    """What ended composing in another way than by an error of Hydra's, and by which of the words, if one alone did."""
    overrides = [word for word in words if (not word.startswith("-") and "=" in word) or word.startswith("~")]
    guilty: str | None = " ".join(word for word in overrides if word.lstrip("+~").startswith("hydra"))
    if not _composes(overrides):  # else it is about how jobs are carried out
        guilty = next((word for word in overrides if _composes([w for w in overrides if w != word])), None)
    if said := no_choice(guilty or "", roots(words)):
        return UserError(said)
    why = f"{type(problem).__name__}: {first_sentence(problem)}"
    return UserError(f"{guilty or ' '.join(words)}: cannot be composed ({why}); see peftbench --cfg job.")


def _composes(words: Sequence[str]) -> bool:
    try:
        with own_hydra():
            hydra_compose("train", overrides=list(words), return_hydra_config=True)
    except Exception:  # asks only whether these words are to blame: the caller tells what went wrong
        return False
    return True


_UNREADABLE = r"LexerNoViableAltException|mismatched input|extraneous input|token recognition|no viable"


def explained(problem: Exception, words: Sequence[str]) -> UserError:
    """Hydra's complaint about the given overrides as one sentence with the nearest valid key."""
    text = str(problem)
    cause = problem.__cause__
    unknown_key = re.search(r"Could not override '([^']+)'", text) or re.search(
        r"[Kk]ey '([^']+)' is not in struct", text
    )
    if unknown_key:
        key = unknown_key[1]
        if isinstance(cause, OmegaConfBaseException) and cause.full_key:
            key = str(cause.full_key)
        folders = roots(words)
        hint = lacking_choice(key, words, folders) or near_key_hint(key, known_keys(words, folders))
        return UserError(f"{given_key(key, words)}: there is no such key{hint}; see peftbench --cfg job.")
    if "Could not find" in text:
        first_line = text.replace("In 'train': ", "").splitlines()[0]
        return UserError(f"{first_line}; see peftbench list.")
    if re.search(_UNREADABLE, text):
        unreadable = next((w for w in words if "=" in w and not readable(w)), " ".join(words))
        return UserError(
            f"{unreadable}: cannot be read; expected key=value, special characters quoted: \"key='a [b'\"."
        )
    if several := re.search(r"(?:Ambiguous value for argument|Sweep parameters) '([^']+)'", text):
        key = several[1].partition("=")[0]
        return UserError(
            f"{key}: several values make a sweep; start it with peftbench -m, or quote one value that has commas: "
            f"\"{key}='a,b'\"."
        )
    place = f"{problem.full_key}: " if isinstance(problem, OmegaConfBaseException) and problem.full_key else ""
    if place and (absent := re.match(r"Interpolation key '([^']+)' not found", text)):
        return UserError(f"{place}refers by ${{…}} to the key '{absent[1]}', which is not there.")
    first_lines = [place + (text or type(problem).__name__).splitlines()[0]]
    if cause:
        first_lines.append(str(cause).splitlines()[0])
    return UserError(" ".join(first_lines).rstrip(".") + ".")
