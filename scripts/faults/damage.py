"""Ways to damage a file: its bytes, what its JSON, YAML or safetensors header says, and what lies in its place."""

from __future__ import annotations

import json
import os
import random
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

DEEP: Any = 0
for _ in range(300):
    DEEP = [DEEP]
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 3, 0.5, 1e308, float("nan"), float("inf"), 10**400, 2**63, -(2**70)),
    *("", "x", "x" * 6000, "\x1b[2J\x1b]0;title\x07", "\u202eabc", "a\nb", "../../x", "/etc/passwd", "${seed}", "???"),
    *([], {}, [None], [[1]], {"a": {}}, [1] * 50, {"": 0}, DEEP),
)


def of_bytes(rng: random.Random, content: bytes) -> tuple[str, bytes]:
    """A name of the damage, and the damaged content."""
    at = rng.randrange(len(content) + 1)
    flipped = bytearray(content or b"\0")
    for _ in range(rng.choice((1, 1, 1, 8, 64))):
        flipped[rng.randrange(len(flipped))] ^= 1 << rng.randrange(8)
    ways: dict[str, Callable[[], bytes]] = {
        "bits flipped": lambda: bytes(flipped),
        "cut short": lambda: content[:at],
        "empty": lambda: b"",
        "head lost": lambda: content[at:],
        "zeros within": lambda: content[:at] + bytes(min(512, len(content) - at)) + content[at + 512 :],
        "more behind": lambda: content + os.urandom(3) + b"\n{}",
        "twice": lambda: content * 2,
        "noise": lambda: bytes(rng.randrange(256) for _ in range(rng.choice((1, 8, 200)))),
        "UTF-16": lambda: "a: 1\n".encode("utf-16"),
    }
    name = rng.choice(list(ways))
    return name, ways[name]()


def of_value(rng: random.Random, content: Any) -> str:
    """Changes one place of a mapping or list, at any depth, and says how."""
    place, path = content, []
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            break
        key = rng.choice(keys)
        path.append(str(key))
        inner = place[key]
        if isinstance(inner, dict | list) and inner and rng.random() < 0.75:
            place = inner
            continue
        way = rng.choice(("another value", "another value", "another value", "lost", "one more key"))
        if way == "lost":
            del place[key]
        elif way == "one more key" and isinstance(place, dict):
            place[rng.choice(("unknown", "", "folder", "path", "__class__", "x" * 3000))] = rng.choice(VALUES)
        else:
            place[key] = rng.choice(VALUES)
            way = f"{way}, {shown(place[key])}"
        return f"{'.'.join(path)}: {way}"
    return "nothing to change"


def shown(value: Any) -> str:
    """A value in a few characters."""
    return "deep" if value is DEEP else f"{value!r:.24}".replace("\n", " ") if value != 10**400 else "10**400"


def of_json(rng: random.Random, content: bytes) -> tuple[str, bytes]:
    """As `of_bytes`, of JSON: mostly whole JSON that says another thing."""
    if rng.random() < 0.25:
        return of_bytes(rng, content)
    if rng.random() < 0.1:
        deep = b"[" * 100_000 + b"]" * 100_000
        return rng.choice((("deep", deep), ("no mapping", b"[1]"), ("digits", b'{"schema": ' + b"9" * 6000 + b"}")))
    value = json.loads(content)
    what = of_value(rng, value)
    return what, json.dumps(value).encode()


def of_yaml(rng: random.Random, content: bytes) -> tuple[str, bytes]:
    """As `of_bytes`, of YAML."""
    if rng.random() < 0.2:
        return of_bytes(rng, content)
    if rng.random() < 0.3:
        name = rng.choice(list(HOSTILE_YAML))
        text = HOSTILE_YAML[name]
        return name, (content + text.encode() if rng.random() < 0.5 else text.encode())
    value = yaml.safe_load(content)
    what = of_value(rng, value)
    return what, yaml.safe_dump(value).encode()


_BOMB = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
)
HOSTILE_YAML = {
    "alias bomb": _BOMB,
    "alias bomb of mappings": _BOMB.replace("[", "{p: ", 1).replace(",x" * 8 + "]", "}", 1),
    "merged bomb": "b: &b {x: 1}\n" + "".join(f"c{i}:\n  <<: [{','.join(['*b'] * 50)}]\n" for i in range(50)),
    "holds itself": "zz: &zz [*zz]\n",
    "deep list": f"zz: {'[' * 4000}{']' * 4000}\n",
    "deep mapping": "zz: " + "{a: " * 2000 + "1" + "}" * 2000 + "\n",
    "digits": f"zz: {'9' * 6000}\n",
    "python object": "zz: !!python/object/apply:os.system ['true']\n",
    "unknown tag": "zz: !mine 3\n",
    "no such day": "zz: 2020-99-99\n",
    "list as a key": "? [a]\n: 3\n",
    "wrong merge": "<<: 3\n",
    "control character": "zz: \x01\n",
    "tab": "zz:\n\t- 1\n",
    "two documents": "a: 1\n---\nb: 2\n",
    "only a number": "3\n",
    "sexagesimal": "backbone: 1:2:3\n",
    "unknown anchor": "zz: *nothing\n",
}


def of_safetensors(rng: random.Random, content: bytes) -> tuple[str, bytes]:
    """As `of_bytes`, of safetensors: mostly a header that can be read and says another thing."""
    if rng.random() < 0.4:
        return of_bytes(rng, content)
    length = struct.unpack("<Q", content[:8])[0]
    if rng.random() < 0.15:
        return "header's length", struct.pack("<Q", rng.choice((0, 1, 2**40, 2**63, length + 1))) + content[8:]
    header = json.loads(content[8 : 8 + length])
    part = header if rng.random() < 0.4 else header.get("__metadata__", header)
    what = of_value(rng, part)
    if part is not header:  # metadata are text
        for key, value in part.items():
            part[key] = value if isinstance(value, str) else json.dumps(value)
    text = json.dumps(header).encode()
    return f"header {what}", struct.pack("<Q", len(text)) + text + content[8 + length :]


def in_place_of(rng: random.Random, path: Path) -> str:
    """Puts something that is no file in the place of one, and says what."""
    path.unlink(missing_ok=True)
    kind = rng.choice(("pipe", "device", "folder", "link to nothing", "link to itself", "gone"))
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    elif kind != "gone":
        path.symlink_to(path.name if kind == "link to itself" else "nowhere")
    return kind


def damage(rng: random.Random, path: Path) -> str:
    """Damages the file at `path` and says how."""
    if rng.random() < 0.12:
        return in_place_of(rng, path)
    way = {".json": of_json, ".yaml": of_yaml, ".safetensors": of_safetensors}.get(path.suffix, of_bytes)
    what, content = way(rng, path.read_bytes())
    path.write_bytes(content)
    return what


def removed(path: Path) -> None:
    """Removes a folder or file, whatever lies in it."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
