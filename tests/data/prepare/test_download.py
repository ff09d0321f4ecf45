"""Fetching: whole, resumed where it broke, refused where it is no file."""

from __future__ import annotations

import functools
import http.server
import json
import threading
from collections.abc import Iterator

import numpy as np
import pytest

from peftbench.common.errors import UserError
from peftbench.data.prepare.download import fetch_file
from peftbench.data.prepare.sources import SOURCES
from support.disk import disk_full_beyond
from support.standins import WORDS


class Server(http.server.BaseHTTPRequestHandler):
    """Serves `files`; `cut` ends the first answers early, `ranges=False` knows no parts."""

    files: dict[str, bytes]
    cut: list[int]
    ranges = True
    tag = '"one"'
    asked: list[str | None]

    def do_GET(self) -> None:
        content = self.files.get(self.path)
        wanted = self.headers.get("Range")
        self.asked.append(wanted)
        if content is None:
            self.send_error(404)
            return
        begin = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.ranges else 0
        if wanted and self.headers.get("If-Range") != self.tag:
            begin = 0
        if begin and begin >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.end_headers()
            return
        self.send_response(206 if begin else 200)
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Type", "text/html" if self.path.endswith("page") else "application/octet-stream")
        self.send_header("Content-Length", str(len(content) - begin))
        self.send_header("ETag", self.tag)
        self.end_headers()
        self.wfile.write(content[begin : self.cut.pop(0)] if self.cut else content[begin:])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[tuple[str, type[Server]]]:
    kind = type("Here", (Server,), {"files": {}, "cut": [], "asked": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), kind) as here:
        thread = threading.Thread(target=functools.partial(here.serve_forever, poll_interval=0.02))
        thread.start()
        yield f"http://127.0.0.1:{here.server_address[1]}", kind
        here.shutdown()
        thread.join()


CONTENT = np.random.default_rng(0).integers(0, 256, 3_000_000, dtype=np.uint8).tobytes()


def test_a_file_is_fetched_whole(server, tmp_path):
    url, here = server
    here.files["/a.bin"] = CONTENT
    told: list[tuple] = []
    fetch_file(f"{url}/a.bin", tmp_path / "deep/a.bin", lambda *seen: told.append(seen))
    assert (tmp_path / "deep/a.bin").read_bytes() == CONTENT
    assert told[-1] == ("fetching a.bin (MB)", 2, 3)
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["a.bin"]


def test_a_broken_connection_is_resumed_where_it_broke(server, tmp_path):
    url, here = server
    here.files["/a.bin"], here.cut = CONTENT, [1_000_000, 2_000_000]
    fetch_file(f"{url}/a.bin", tmp_path / "a.bin", wait=0)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert here.asked == [None, "bytes=1000000-", "bytes=2000000-"]


def test_a_later_command_goes_on_with_the_part_that_is_kept(server, tmp_path):
    url, here = server
    here.files["/a.bin"], here.cut = CONTENT, [1_000_000]
    with pytest.raises(UserError, match=r"could not be fetched .*1\.0 MB are kept.*by hand"):
        fetch_file(f"{url}/a.bin", tmp_path / "a.bin", tries=1)
    assert not (tmp_path / "a.bin").exists()
    fetch_file(f"{url}/a.bin", tmp_path / "a.bin", tries=1)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert here.asked == [None, "bytes=1000000-"]


def test_the_part_of_a_file_that_has_changed_is_not_continued(server, tmp_path):
    url, here = server
    here.files["/a.bin"], here.cut = CONTENT, [1_000_000]
    with pytest.raises(UserError):
        fetch_file(f"{url}/a.bin", tmp_path / "a.bin", tries=1)
    here.files["/a.bin"], here.tag = CONTENT[::-1], '"two"'
    fetch_file(f"{url}/a.bin", tmp_path / "a.bin", tries=1)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT[::-1]


def test_a_server_without_parts_sends_all_again(server, tmp_path):
    url, here = server
    here.files["/a.bin"], here.cut, here.ranges = CONTENT, [1_000_000], False
    fetch_file(f"{url}/a.bin", tmp_path / "a.bin", wait=0)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_a_part_that_is_the_whole_file_is_taken(server, tmp_path):
    url, here = server
    here.files["/a.bin"] = CONTENT
    (tmp_path / "a.bin.part").write_bytes(CONTENT)
    (tmp_path / "a.bin.part.json").write_text(json.dumps({"url": f"{url}/a.bin", "mark": here.tag}))
    fetch_file(f"{url}/a.bin", tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]


@pytest.mark.parametrize(("path", "reason"), [("/none.bin", "404"), ("/page", "a web page")])
def test_what_is_no_file_is_told_at_once(server, tmp_path, path, reason):
    url, here = server
    here.files["/page"] = b"<html>please log in</html>"
    with pytest.raises(UserError, match=f"could not be fetched .*{reason}.*; or do this"):
        fetch_file(url + path, tmp_path / "a.bin", by_hand="do this")
    assert len(here.asked) == 1
    assert not list(tmp_path.iterdir())


def test_an_address_of_another_kind_is_refused(tmp_path):
    with pytest.raises(UserError, match="http"):
        fetch_file("file:///etc/passwd", tmp_path / "a.bin")


def test_a_full_disk_keeps_what_was_fetched(server, tmp_path):
    url, here = server
    here.files["/a.bin"] = CONTENT
    with disk_full_beyond(2**20), pytest.raises(UserError, match="could not be written"):
        fetch_file(f"{url}/a.bin", tmp_path / "a.bin", wait=0)
    assert not (tmp_path / "a.bin").exists()
    fetch_file(f"{url}/a.bin", tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert here.asked[1] == f"bytes={2**20}-"


def test_a_task_is_fetched_from_a_mirror_and_prepared(server, archives, prepared, data, tmp_path):
    url, here = server
    for file in SOURCES["smallnorb"].files:
        here.files[f"/pub/smallnorb/{file.name}"] = (archives / "smallnorb" / file.name).read_bytes()
    told = data("prepare", "vtab/smallnorb_azi", "vtab/smallnorb_ele", f"mirror={url}/pub/", *WORDS)
    assert told[0] == 0, told
    assert len(here.asked) == 4  # once, for both tasks
    for name in ("smallnorb_azi", "smallnorb_ele"):
        made = tmp_path / "data/vtab" / name / "split.json"
        assert made.read_bytes() == (prepared[0] / name / "split.json").read_bytes()
    assert (tmp_path / "data/sources/smallnorb").is_dir()


def test_a_server_that_sends_us_to_another_kind_of_address_is_not_followed(server, tmp_path):
    url, here = server

    def do_GET(self) -> None:
        self.send_response(302)
        self.send_header("Location", "ftp://127.0.0.1/a.bin")
        self.end_headers()

    here.do_GET = do_GET
    with pytest.raises(UserError, match="sends us to a ftp: address, which is not followed"):
        fetch_file(f"{url}/a.bin", tmp_path / "a.bin", wait=0)


def test_a_mirrors_password_is_used_and_neither_printed_nor_kept_nor_sent_elsewhere(server, tmp_path):
    url, here = server
    here.files, here.cut, seen = {"/b.bin": CONTENT}, [1000], []
    plain = Server.do_GET

    def do_GET(self) -> None:
        seen.append((self.path, self.headers.get("Authorization")))
        if self.path.startswith("/a.bin"):
            self.send_response(302)
            self.send_header("Location", f"{url}/b.bin")
            self.end_headers()
        else:
            plain(self)

    here.do_GET = do_GET
    secret = url.replace("//", "//me:s3cret%2F@")
    with pytest.raises(UserError) as told:
        fetch_file(f"{secret}/a.bin?token=hidden", tmp_path / "a.bin", tries=1)
    assert "s3cret" not in str(told.value)
    assert "hidden" not in str(told.value)
    assert url in str(told.value)
    assert [word for _, word in seen] == ["Basic bWU6czNjcmV0Lw==", None]
    assert all(b"s3cret" not in file.read_bytes() for file in tmp_path.iterdir() if "json" in file.name)


@pytest.mark.parametrize(
    "url",
    [
        *("http://[::1", "http://host:port/a", "http:///a", "https://", "http://a b/c", "http://h/\x00", "ftp://h/a"),
        *("http://h:99999/a", "http://me:s3cret@h:x/a", f"http://{'a' * 300}/b", "file:///etc/passwd", "host/a", ""),
    ],
)
def test_an_odd_address_is_refused_in_a_sentence(tmp_path, url):
    with pytest.raises(UserError, match=r"is no (http\(s\) address|address that can be asked)") as told:
        fetch_file(url, tmp_path / "a.bin", wait=0)
    assert "s3cret" not in str(told.value)
    assert list(tmp_path.iterdir()) == []
