"""The forms of a report: LaTeX, Markdown, and the page as it is without a browser."""

from __future__ import annotations

import re
from html.parser import HTMLParser

from support.reports import record, tell, write


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
