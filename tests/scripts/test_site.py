"""The documentation site: what `make docs` refuses, and how its pages are in a browser."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from support.npm import node_modules_with
from support.pages import browser
from support.places import ROOT

pytest.importorskip("material", reason="pip install '.[docs]' brings mkdocs and its theme")
HERE = Path(__file__).parent
KINDS = {"start": "index", "guide": "choosing", "method": "methods/losa", "reference": "config", "python": "python"}


@pytest.fixture
def hook(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    yield importlib.import_module("site_hook")
    sys.modules.pop("site_hook", None)


def build(config: Path, site: Path) -> subprocess.CompletedProcess[str]:
    """`mkdocs build` as make docs has it."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", str(config), "--site-dir", str(site)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=config.parent)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[there](nowhere.md)", "index.md' contains a link 'nowhere.md'"),
        ("[there](#nothing)", "index.md' contains a link '#nothing'"),
        ("[there](other.md#nothing)", "does not contain an anchor '#nothing'"),
    ],
)
@pytest.mark.slow
def test_a_dead_link_or_anchor_fails_the_build_with_its_page(tmp_path, text, told):
    done = build(_small(tmp_path, text, "[index.md, other.md]"), tmp_path / "site")
    assert done.returncode != 0
    assert told in done.stderr


@pytest.mark.slow
def test_a_page_that_no_navigation_has_fails_the_build(tmp_path):
    done = build(_small(tmp_path, "text", "[index.md]"), tmp_path / "site")
    assert done.returncode != 0
    assert "other.md" in done.stderr


def _small(folder: Path, text: str, pages: str) -> Path:
    """A site of two pages that is built as ours, without its hook and its Python pages."""
    (folder / "docs").mkdir()
    (folder / "docs" / "index.md").write_text(f"# Index\n\n{text}\n")
    (folder / "docs" / "other.md").write_text("# Other\n")
    ours = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    ours = re.sub(r"^hooks: .*$", "", ours, flags=re.MULTILINE)
    ours = re.sub(r"^plugins:\n.*?(?=^\w)", "plugins: [search]\n", ours, flags=re.MULTILINE | re.DOTALL)
    config = folder / "mkdocs.yml"
    config.write_text(ours.partition("\nnav:")[0] + f"\nnav: {pages}\n")
    return config


def test_what_a_browser_would_fetch_from_elsewhere_fails_the_build(hook):
    from mkdocs.exceptions import PluginError

    class Page:
        class file:
            src_uri = "page.md"

    class Config:
        pass

    assert hook.on_post_page('<a href="https://example.org">text</a>', Page, Config)
    for tag in (
        '<script src="https://example.org/a.js"></script>',
        '<link rel="stylesheet" href="//example.org/a.css">',
        "<img alt='' src='http://example.org/a.png'>",
        '<pre class="mermaid">graph</pre>',
    ):
        with pytest.raises(PluginError, match=r"page\.md: would fetch"):
            hook.on_post_page(tag, Page, Config)


def test_links_lead_to_pages_or_to_files_of_the_repository(hook):
    from mkdocs.config import load_config
    from mkdocs.structure.files import File, Files

    config = load_config(str(ROOT / "mkdocs.yml"))
    config.plugins._current_plugin = "test"  # which mkdocs sets where it calls a hook
    files = Files([])
    text = (
        "[a](../CONTRIBUTING.md#a-new-task) [b](../README.md) [c](../configs/method/lora.yaml) [d](data.md#clips)\n"
        "[e](../gone.md)\n- item\n\n```\n[f](../README.md)\n```\n"
    )

    class Page:
        file = File("report.md", str(ROOT / "docs"), "site", False)

    assert hook.on_page_markdown(text, Page, config, files) == (
        "[a](contributing.md#a-new-task) [b](index.md) [c](files/configs/method/lora.yaml) [d](data.md#clips)\n"
        "[e](../gone.md)\n\n- item\n\n```\n[f](../README.md)\n```\n"
    )
    assert [file.src_uri for file in files] == ["files/configs/method/lora.yaml"]


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("site")
    done = build(ROOT / "mkdocs.yml", place)
    assert done.returncode == 0, done.stderr
    return place


@pytest.fixture(scope="module")
def axe(tmp_path_factory) -> Path:
    return node_modules_with("axe-core", "4", tmp_path_factory.mktemp("npm")) / "axe-core" / "axe.min.js"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("width", "scheme"), [(390, "light"), (1280, "light"), (1920, "light"), (390, "dark"), (1280, "dark")]
)
def test_pages_fit_their_width_and_have_no_serious_violation(site, axe, tmp_path, width, scheme):
    seen = look(site, axe, tmp_path, width, scheme)
    assert seen.keys() == KINDS.keys()
    for kind, found in seen.items():
        assert found["scheme"] == {"light": "default", "dark": "slate"}[scheme]
        assert found["over"] <= 0, f"{kind}: {found['over']} pixels wider than the window of {width}"
        assert not found["violations"], f"{kind}: {json.dumps(found['violations'], indent=1)}"


def look(site: Path, axe: Path, folder: Path, width: int, scheme: str) -> dict[str, dict]:
    """What axe finds on a page of each kind, in frames of a width, where the system's colours are light or dark."""
    from html import unescape

    frames = ""
    for kind, page in KINDS.items():
        source = site / f"{page}.html"
        copy = source.with_name(f"{source.stem}-{width}-{scheme}.html")
        inside = f'<script src="{axe.as_uri()}"></script></body>'
        copy.write_text(source.read_text(encoding="utf-8").replace("</body>", inside), encoding="utf-8")
        style = f"width:{width}px;height:900px;border:0"
        frames += f'<iframe title="{kind}" src="{copy.as_uri()}" style="{style}"></iframe>'
    script = (HERE / "axe.js").read_text(encoding="utf-8")
    holder = folder / "views.html"
    holder.write_text(f'<!doctype html><body>{frames}<pre id="seen"></pre><script>{script}</script>')
    command = [browser(), "--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files"]
    command += [f"--blink-settings=preferredColorScheme={['dark', 'light'].index(scheme)}"]
    command += [f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=60000", "--dump-dom", holder.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=True)
    content = re.search(r'<pre id="seen">(.*?)</pre>', done.stdout, re.S)
    assert content is not None, done.stderr
    found: dict[str, dict] = json.loads(unescape(content[1]))
    return found
