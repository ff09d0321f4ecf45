"""A finished run's exported files at the Hub of Hugging Face, with card, config and record. Needs no torch."""

from __future__ import annotations

import json
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError, safe_open

from peftbench.common.errors import Refusal, UserError
from peftbench.common.foreign_text import first_sentence
from peftbench.config import Config
from peftbench.config.repeating import repeating_words
from peftbench.results import Record
from peftbench.results.model_card import MARK, CardFile, model_card
from peftbench.tuned.card_file import takes_of
from peftbench.tuned.run_folder import PLACES, PRECISIONS, PREPROCESS, companions, export_name, file_hash
from peftbench.tuned.without_places import holds_places, without_places

CARD, CONFIG, RECORD = "README.md", "config.yaml", "result.json"
DELTA = "delta.safetensors"
_SECONDS = 60.0  # without an answer, or a byte, of the server
_INSTALL = "pip install 'peftbench[hub]'"


@dataclass(frozen=True)
class Pushed:
    """What goes up: name in the repository -> its bytes, or the file that holds them.

    `left_out` are keys whose places are left out of config, record and card, `formats` those of the exports.
    """

    files: dict[str, bytes | Path]
    left_out: tuple[str, ...]
    formats: tuple[str, ...] = ()

    def sizes(self) -> dict[str, int]:
        """Name -> bytes."""
        return {n: len(f) if isinstance(f, bytes) else f.stat().st_size for n, f in self.files.items()}


def gather(folder: Path, record: Record, config: Config, formats: Sequence[str] = ()) -> Pushed:
    """What a push of a finished run holds: its exports in its folder, of these formats or all, and what tells of them.

    Raises:
        UserError: nothing was exported, or not in a format that is asked for; the delta is damaged.
        Refusal: an exported file holds a path of this machine.
    """
    there = {form: paths for form in PLACES if (paths := _exports(folder, form))}
    if missing := [form for form in formats if form not in there]:
        raise UserError(
            f"format={missing[0]}: {folder} holds no such file; peftbench export run={folder} format={missing[0]} "
            f"writes it."
        )
    chosen = {form: there[form] for form in formats or there}
    if not chosen:
        raise UserError(f"run={folder}: holds no exported file; peftbench export run={folder} format=onnx writes one.")
    files: dict[str, bytes | Path] = {}
    for form, path in ((form, path) for form, paths in chosen.items() for path in paths):
        for file in _whole(folder, form, path):
            if place := holds_places(file.read_bytes(), config):
                raise Refusal(
                    f"{file}: holds {place}, a path of this machine, so that nothing is pushed; export it anew with "
                    f"force=true."
                )
            files[file.relative_to(folder).as_posix()] = file
    shown = without_places(record, config)
    listed = [
        CardFile(path.name + ("/" if path.is_dir() else ""), form, takes=takes_of(path))
        for form, paths in chosen.items()
        for path in paths
    ]
    words = repeating_words(shown.config)
    card = model_card(shown.record, _classes(folder), words, listed, config.data.licence)
    told = {"id": record.id, **{k: v for k, v in vars(shown.record).items() if k not in ("folder", "was_there")}}
    files[CARD] = card.encode()
    files[CONFIG] = yaml.safe_dump(shown.config.to_dict(), sort_keys=False).encode()
    files[RECORD] = (json.dumps(told, indent=2, sort_keys=True) + "\n").encode()
    return Pushed(files, shown.left_out, tuple(chosen))


def _exports(folder: Path, form: str) -> list[Path]:
    """The exports of a format in a run's folder, of each precision; what is kept apart for what it loses is none."""
    places = [folder / export_name(form, precision) for precision in PRECISIONS.get(form, ("fp32",))]
    return [path for path in places if path.exists()]


def _whole(folder: Path, form: str, path: Path) -> list[Path]:
    """The files of an export, with those that go with it. Raises UserError where one is gone, or is another by now."""
    remedy = f"peftbench export run={folder} format={form} force=true writes it anew"
    told = path.with_name(path.name + PREPROCESS)
    beside = companions(path, form)
    if gone := [file for file in beside if file != told and not file.is_file()]:
        raise UserError(f"{gone[0]}: is gone, and {path.name} is of no use without it; {remedy}.")
    try:
        hashes = dict(json.loads(told.read_text(encoding="utf-8")).get("sha256", {})) if told.is_file() else {}
    except (OSError, ValueError, TypeError, AttributeError):
        raise UserError(f"{told}: is damaged; {remedy}.") from None
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    files += [file for file in beside if file.is_file()]
    for file in files:
        if file.name in hashes and file_hash(file) != hashes[file.name]:
            raise UserError(f"{file}: is not the file that was exported; {remedy}.")
    return files


def _classes(folder: Path) -> list[str]:
    try:
        with safe_open(folder / DELTA, "numpy") as file:
            names = json.loads((file.metadata() or {})["classes"])
        return [str(name) for name in names]
    except (OSError, SafetensorError, KeyError, ValueError, TypeError):
        raise UserError(f"{folder / DELTA}: is damaged, or is gone; the run cannot be pushed without it.") from None


def refuse_bad_name(repo: str) -> None:
    """Raises UserError where the Hub has no such names, or huggingface_hub is not installed."""
    try:
        from huggingface_hub.utils import HFValidationError, validate_repo_id
    except ImportError:
        raise UserError(f"push: needs huggingface_hub; {_INSTALL}.") from None
    expected = "expected NAME or OWNER/NAME, of letters, digits and single - _ . between them, at most 96 characters"
    try:
        validate_repo_id(repo)
    except HFValidationError:
        raise UserError(f"repo={repo}: is no name of a repository; {expected}.") from None


def push(pushed: Pushed, repo: str, private: bool, force: bool, message: str) -> str:
    """Makes the repository where there is none, and puts all files up in one commit; returns its address.

    The token is huggingface_hub's own: `hf auth login`, or HF_TOKEN. The server is that of HF_ENDPOINT, or the Hub.

    Args:
        pushed: what goes up.
        repo: NAME or OWNER/NAME.
        private: whether a repository that is made now is for its owner alone.
        force: whether a README.md that is there and is no card of peftbench's may be replaced.
        message: of the commit.

    Raises:
        UserError: as `refuse_bad_name`; no token, no right, no network, or the server said no.
        Refusal: there is a README.md of somebody else's, or `private`, and the repository that is there is not.
    """
    refuse_bad_name(repo)
    import huggingface_hub
    from huggingface_hub import CommitOperationAdd, HfApi, constants
    from huggingface_hub.utils import disable_progress_bars, get_session

    if constants.HF_HUB_OFFLINE:
        raise UserError("push: HF_HUB_OFFLINE is set, so that huggingface_hub asks no server; unset it.")
    if huggingface_hub.get_token() is None:
        raise UserError("push: there is no token for the Hub; hf auth login keeps one, or set HF_TOKEN.")
    disable_progress_bars()
    session: Any = get_session()
    session.timeout = _SECONDS  # its own is none: a server that says nothing would be waited for without end
    api = HfApi()
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_SECONDS)
    try:
        name = api.create_repo(repo, private=private, exist_ok=True).repo_id
        if private and not api.model_info(name).private:
            raise Refusal(
                f"private=true: {name} was there already, and anybody may read it; make it private at {api.endpoint}, "
                f"or give another name."
            )
        if not force:
            _refuse_foreign_card(api, name)
        operations = [
            CommitOperationAdd(path, content if isinstance(content, bytes) else str(content))
            for path, content in pushed.files.items()
        ]
        commit = api.create_commit(name, operations, commit_message=message)
    except UserError:
        raise
    except Exception as problem:  # of huggingface_hub, its HTTP library, the system
        raise UserError(f"repo={repo}: {_why(problem, api.endpoint)}.") from None
    finally:
        socket.setdefaulttimeout(before)
    return str(commit.repo_url)


def _refuse_foreign_card(api: Any, repo: str) -> None:
    if not api.file_exists(repo, CARD):
        return
    from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

    url = f"{api.endpoint}/{repo}/resolve/main/{CARD}"
    answer = get_session().get(url, headers=build_hf_headers(), follow_redirects=True)
    hf_raise_for_status(answer)
    if MARK not in answer.text:
        raise Refusal(
            f"repo={repo}: has a {CARD} that peftbench did not write, and it would be replaced; give another name, or "
            f"force=true."
        )


def _why(problem: Exception, endpoint: str) -> str:
    status = getattr(getattr(problem, "response", None), "status_code", None)
    if status in (401, 403):
        return f"{endpoint} does not let this token write there ({status}); hf auth login with one that may"
    if status is not None:
        return f"{endpoint} said {status} ({first_sentence(problem)}); try again later, or look at the name"
    if isinstance(problem, OSError) or "connect" in str(problem).lower() or "Timeout" in type(problem).__name__:
        return f"{endpoint} cannot be reached, or answers too slowly ({first_sentence(problem)}); try again"
    return f"could not be pushed to ({type(problem).__name__}: {first_sentence(problem)})"
