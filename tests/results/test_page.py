"""The report's formats, and its page in a browser."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from support.reports import leaderboard, one, record, tell, write

# -- formats


def test_latex_escapes_and_balances(suite, tmp_path):
    out = tell("report", suite, "--format=latex", f"--output={tmp_path / 'r.tex'}")
    assert out.startswith("report: ")
    text = (tmp_path / "r.tex").read_text()
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") >= 3
    for number, line in enumerate(text.splitlines()):
        assert not re.search(r"(?<!\\)_", line), (number, line)
        if line.endswith(r"\\"):
            assert "%" not in line.replace(r"\%", "")
    tell("report", suite, "--format=latex", f"--output={tmp_path / 'r.tex'}")  # a report may be written again


def test_markdown_tables_have_equal_columns(suite):
    rows = [line for line in tell("report", suite, "--format=markdown").splitlines() if line.startswith("|")]
    blocks = "\n".join(rows)
    assert "| lora | 3 |" in blocks
    for line in rows:
        assert len(re.findall(r"(?<!\\)\|", line)) >= 3


def test_hostile_names_stay_text_on_the_page(tmp_path):
    evil = "<script>alert(1)</script>&\"'</script>"
    each = record("lora", config__choices={"method": evil, "backbone": evil, "data": evil}, reason=evil)
    write(tmp_path, each | {"id": "x"}, record("bitfit", status="failed", reason=evil))
    tell("report", tmp_path, "--format=html")
    text = (tmp_path / "report.html").read_text()
    assert "<script>alert" not in text
    assert text.count("<script") == text.count("</script>") == 2


def test_the_page_fetches_nothing(suite, tmp_path):
    tell("report", suite, "--format=html", f"--output={tmp_path / 'r.html'}")
    text = (tmp_path / "r.html").read_text().replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?://|\bsrc=|@import|url\(|<link|fetch\(", text)
    assert "default-src 'none'" in text
    assert "@media print" in text
    assert "prefers-color-scheme: dark" in text

    class Tables(HTMLParser):
        found: list[str] = []

        def handle_data(self, data: str) -> None:
            self.found.append(data)

    reader = Tables()
    reader.feed(text)
    assert "lora" in reader.found, "the tables are there without the script"


def test_no_torch_is_imported(imported_by_report):
    assert "peftbench" in imported_by_report
    assert "torch" not in imported_by_report


# -- the page in a browser


def browser() -> str:
    """A Chromium. Where PEFTBENCH_BROWSER=required (as in .ci/run) its absence is a failure."""
    for name in ("chromium", "chromium-browser", "google-chrome", "chrome"):
        if found := shutil.which(name):
            return found
    if os.environ.get("PEFTBENCH_BROWSER") == "required":
        pytest.fail("no Chromium is installed, and PEFTBENCH_BROWSER=required")
    pytest.skip("no Chromium is installed (Debian: apt-get install chromium)")


class Dom(HTMLParser):
    """What a test reads of the page: attributes by tag, the text of cells by row, and the text by id."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.nodes: list[tuple[str, dict[str, str]]] = []
        self.rows: list[tuple[dict[str, str], list[str]]] = []
        self.by_id: dict[str, str] = {}
        self._open: str | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        own = {k: v or "" for k, v in attrs}
        self.nodes.append((tag, own))
        self._open = own.get("id")
        if tag == "tr":
            self.rows.append((own, []))
        if tag in ("td", "th") and self.rows:
            self.rows[-1][1].append("")
            self._open = "cell"

    def handle_endtag(self, tag: str) -> None:
        self._open = None

    def handle_data(self, data: str) -> None:
        if self._open == "cell":
            self.rows[-1][1][-1] += data
        elif self._open:
            self.by_id[self._open] = self.by_id.get(self._open, "") + data


def load(page: Path, fragment: str, profile: Path) -> Dom:
    command = [browser(), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}", "--dump-dom"]
    command += ["--virtual-time-budget=3000", f"file://{page}{fragment}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return Dom(done.stdout)


def test_in_a_browser_the_page_draws_sorts_and_filters(suite, tmp_path):
    shutil.copytree(suite, tmp_path / "runs")
    layers = [{"name": f"blocks.{i}.attn.qkv.weight", "kind": "lora", "parameters": 100 * (i + 1)} for i in range(3)]
    for path in (tmp_path / "runs").glob("lora-*/result.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"plan": {"layers": layers}}))
    tell("report", tmp_path / "runs", "--format=html")
    page = tmp_path / "runs" / "report.html"
    whole = load(page, "", tmp_path / "profile")
    assert whole.by_id["count"] == "3 of 3 rows"
    points = [a for t, a in whole.nodes if t == "circle" and a.get("data-label")]
    assert {p["data-label"] for p in points} == {"lora", "bitfit", "linear"}
    on_front = {p["data-label"] for p in points if p["data-front"] == "true"}
    assert {"lora", "bitfit"} <= on_front
    bars = [a for t, a in whole.nodes if t == "rect" and a.get("data-task") == "kitti"]
    lines = leaderboard(tmp_path / "runs")
    for bar in bars:
        mean = float(one(lines, method=bar["data-label"], task="vtab/kitti")["value"])
        assert float(bar["width"]) == pytest.approx(180 * mean, rel=1e-4), "bars are as long as the means are large"
    assert len(bars) == 3
    assert len([a for t, a in whole.nodes if t == "svg" and a["aria-label"] == "lora: budget by layer"]) == 1
    ordered = [cells[0] for _, cells in whole.rows if cells and cells[0] in ("lora", "bitfit", "linear")][:3]
    assert ordered == ["lora", "bitfit", "linear"]

    sorted_ = load(page, "#q=kitti&sort=params&order=ascending", tmp_path / "profile")
    ordered = [cells[0] for _, cells in sorted_.rows if cells and cells[0] in ("lora", "bitfit", "linear")][:3]
    assert ordered == ["linear", "bitfit", "lora"]
    assert {a["data-task"] for t, a in sorted_.nodes if t == "rect" and "data-task" in a} == {"kitti"}

    filtered = load(page, "#q=bitfit", tmp_path / "profile")
    assert filtered.by_id["count"] == "1 of 3 rows"
    assert {a["data-label"] for t, a in filtered.nodes if t == "circle" and "data-label" in a} == {"bitfit"}
    shown = [
        cells[0] for attrs, cells in filtered.rows if "hidden" not in attrs and cells[0] in ("lora", "bitfit", "linear")
    ]
    assert set(shown) == {"bitfit"}


# -- what the page holds


def test_the_page_holds_the_fronts_of_what_may_be_compared(tmp_path):
    """By time, runs from kept taps have a front of their own; the parameters of all runs have one."""
    times = {"linear": (0.5, 10.0, 0), "bitfit": (0.7, 20.0, 100), "full": (0.6, 30.0, 500)}
    for method, (accuracy, seconds, parameters) in times.items():
        more = {"costs__time__train": seconds, "costs__parameters__method": parameters}
        write(tmp_path, record(method, accuracy=accuracy, **more))
    kept = {"mode": "disk", "computed": 0, "seconds": 0.0}
    for method, accuracy, seconds in (("losa", 0.6, 3.0), ("lst", 0.55, 2.0)):
        write(tmp_path, record(method, accuracy=accuracy, costs__time__train=seconds, costs__taps=kept))
    write(tmp_path, record("lora", accuracy=0.99, costs__together=4))
    tell("report", tmp_path, "--format=html")
    content = (tmp_path / "report.html").read_text()
    (board,) = json.loads(re.search(r'id="data">(.*?)</script>', content)[1])
    labels = [row["label"] for row in board["rows"]]
    fronts = {cost: {tuple(labels[i] for i in front) for front in board["fronts"][cost]} for cost in board["fronts"]}
    assert fronts["train"] == {("linear", "bitfit"), ("lst", "losa")}
    assert fronts["parameters"] == {("linear", "bitfit", "lora")}
