"""Fetching a file: resumed where it stopped, and only there under its name when it is whole."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import time
import urllib.error
import urllib.request
from base64 import b64encode
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from peftbench.common.errors import UserError
from peftbench.common.foreign_text import first_sentence, shortened
from peftbench.common.json_text import json_of
from peftbench.common.progress import Stages, unwatched
from peftbench.common.regular_files import text_in

_MB = 2**20
_SCHEMES = ("https://", "http://")
_AGAIN = (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError)


class _Refused(Exception):
    """The server's answer is no file, and asking again would not change that."""


class _OnlyHttp(urllib.request.HTTPRedirectHandler):
    """Follows a server to other http(s) addresses alone."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if not newurl.startswith(_SCHEMES):
            raise _Refused(f"the server sends us to a {newurl.partition(':')[0]}: address, which is not followed")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


@dataclass(frozen=True)
class _Address:
    """An address that can be asked.

    Attributes:
        url: without a name and password.
        shown: for messages and notes: without what may be secret.
        secret: `name:password`, or empty.
    """

    url: str
    shown: str
    secret: str

    @classmethod
    def of(cls, url: str) -> _Address:
        """Raises UserError for what is none."""
        shown = re.sub(r"//[^/?#]*@", "//", url)
        if not url.startswith(_SCHEMES):
            raise UserError(f"{shortened(shown)}: is no http(s) address.")
        try:
            parts = urlsplit(url)
            port = "" if parts.port is None else f":{parts.port}"
            host = (parts.hostname or "").encode("idna").decode()
            if not host or re.search(r"[\x00-\x20\x7f]", url):
                raise ValueError
        except ValueError:  # a port that is no number, a bracket, letters that no host's name has
            raise UserError(
                f"{shortened(shown)}: is no address that can be asked; expected such as https://host/folder."
            ) from None
        place = f"[{host}]{port}" if ":" in host else f"{host}{port}"
        path, query = quote(parts.path, safe="/%:@!$&'()*+,;=~"), quote(parts.query, safe="/%:@!$&'()*+,;=~?")
        secret = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}" if "@" in parts.netloc else ""
        shown = urlunsplit((parts.scheme, place, path, "…" if query else "", ""))
        return cls(urlunsplit((parts.scheme, place, path, query, "")), shown, secret)

    def without_secret(self, text: str) -> str:
        """A library's text, which may quote the address."""
        return text.replace(self.url, self.shown)


def fetch_file(
    url: str, path: Path, watch: Stages = unwatched, *, tries: int = 4, wait: float = 1.0, by_hand: str = ""
) -> None:
    """Fetches `url` to `path`, by way of `path`.part, which a later call goes on with.

    A part is continued only where the server says (by ETag or date) that it is still the same file; what arrives must
    be as long as the server said. `by_hand` is added to the sentence of a failure: what the user can do instead.

    Raises:
        UserError: the file could not be fetched, or not be written.
    """
    address = _Address.of(url)
    part, about = path.with_name(path.name + ".part"), path.with_name(path.name + ".part.json")
    reason = ""
    for attempt in range(tries):
        if attempt:
            time.sleep(wait * attempt)
        try:
            _try(address, part, about, watch)
            part.replace(path)
            about.unlink(missing_ok=True)
            return
        except urllib.error.HTTPError as problem:
            reason = f"the server answers {problem.code} {problem.reason}"
            if problem.code < 500 and problem.code != 429:
                break
        except _Refused as problem:
            reason = str(problem)
            break
        except (ValueError, http.client.InvalidURL) as problem:  # what only the library finds wrong with an address
            reason = address.without_secret(f"it is no address that can be asked: {first_sentence(problem)}")
            break
        except _AGAIN as problem:
            reason = str(getattr(problem, "reason", "") or problem or type(problem).__name__)
        except OSError as problem:
            raise UserError(
                f"{part}: could not be written ({problem.strerror or problem}); what is there is kept, "
                f"and the same command goes on from it."
            ) from None
    kept = ""
    with contextlib.suppress(OSError):
        if size := part.stat().st_size:
            kept = f"; {size / _MB:.1f} MB are kept, and the same command goes on from there"
        else:
            part.unlink()
    hand = by_hand or f"fetch it by hand and put it at {path}"
    raise UserError(f"{address.shown}: could not be fetched ({reason}){kept}; or {hand}.")


def _try(address: _Address, part: Path, about: Path, watch: Stages) -> None:
    part.parent.mkdir(parents=True, exist_ok=True)
    mark = _mark(about, address.shown)
    have = part.stat().st_size if part.is_file() and mark else 0
    request = urllib.request.Request(address.url, headers={"User-Agent": "peftbench", "Accept-Encoding": "identity"})
    if address.secret:  # not for whom the server sends us to
        request.add_unredirected_header("Authorization", f"Basic {b64encode(address.secret.encode()).decode()}")
    if have:
        request.add_header("Range", f"bytes={have}-")
        request.add_header("If-Range", mark)
    try:
        answer = urllib.request.build_opener(_OnlyHttp).open(request, timeout=60)
    except urllib.error.HTTPError as problem:
        if problem.code == 416 and problem.headers.get("Content-Range", "").endswith(f"/{have}"):
            return  # the part is the whole file
        if problem.code == 416:
            about.unlink(missing_ok=True)
            raise ConnectionError("the part that is kept does not fit the file any more") from None
        raise
    with answer:
        resumed = answer.status == 206
        if resumed and not answer.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            about.unlink(missing_ok=True)
            raise ConnectionError("the server sent another part than was asked for")
        if answer.headers.get_content_type() == "text/html" and not part.name.endswith((".html.part", ".htm.part")):
            raise _Refused("the server sends a web page, not the file")
        have = have if resumed else 0
        length = answer.headers.get("Content-Length")
        total = have + int(length) if length and length.isdecimal() else 0
        _note(about, address.shown, answer)
        with part.open("ab" if resumed else "wb") as file:
            while chunk := answer.read(_MB):
                file.write(chunk)
                have += len(chunk)
                watch(f"fetching {part.name.removesuffix('.part')} (MB)", have // _MB, -(-total // _MB))
    if total and have != total:
        raise ConnectionError(f"it ended after {have:,} of {total:,} bytes")


def _mark(about: Path, url: str) -> str:
    """What the server said of the version that the part is of; empty where that is not known."""
    try:
        content = json_of(text_in(about))
        return str(content["mark"]) if content["url"] == url else ""
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _note(about: Path, url: str, answer: Any) -> None:
    tag = answer.headers.get("ETag", "")
    mark = tag if tag and not tag.startswith("W/") else answer.headers.get("Last-Modified", "")
    if mark:
        about.write_text(json.dumps({"url": url, "mark": mark}), encoding="utf-8")
    else:
        about.unlink(missing_ok=True)
