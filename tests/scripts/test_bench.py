"""The benchmarks: topics, their rows, the table and the page; whether one tree is slower than another."""

import importlib
import shutil
import subprocess
import sys

import pytest

from support.places import ROOT

SCRIPTS = ROOT / "scripts"
BENCH = SCRIPTS / "bench"
PAGE = ROOT / "docs" / "benchmarks.md"


@pytest.fixture(scope="module", autouse=True)
def _bench_is_importable():
    sys.path.insert(0, str(SCRIPTS))
    yield
    sys.path.remove(str(SCRIPTS))


def bench(module: str):
    return importlib.import_module(f"bench.{module}")


def rows_of_topics() -> dict[str, list[str]]:
    return {topic: bench(topic).names() for topic in bench("__main__").TOPICS}


def row(what, ours, kept=None, **cells):
    return bench("tables").Row(what, ours, kept=kept, **cells)


def test_every_module_that_measures_is_a_topic():
    measuring = {p.stem for p in BENCH.glob("*.py") if "def measure(" in p.read_text(encoding="utf-8")}
    assert measuring == set(bench("__main__").TOPICS)


def test_every_topic_lists_its_rows_and_no_row_is_listed_twice():
    listed = [name for names in rows_of_topics().values() for name in names]
    assert all(rows_of_topics().values())
    assert len(set(listed)) == len(listed)
    assert [bench("tables").row_name(name) for name in listed] == listed


def test_every_row_of_the_page_belongs_to_a_topic():
    listed = {name for names in rows_of_topics().values() for name in names}
    on_page = bench("tables").lines_of(PAGE.read_text(encoding="utf-8"))
    assert len(on_page) > 50
    assert set(on_page) <= listed


def test_list_prints_topics_and_rows_without_measuring(capsys):
    assert bench("__main__").main(["--list", "optimizers"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "  memory of FTP, in sizes of the model"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["sides"], "sides: no such topic; expected startup, "),
        (["--quick", "--write"], "give --page with a copy of it."),
    ],
)
def test_mistakes_get_one_sentence(words, sentence, capsys):
    with pytest.raises(SystemExit) as stop:
        bench("__main__").main(words)
    assert stop.value.code == 2
    assert sentence in capsys.readouterr().err


def test_a_measured_row_takes_the_place_of_the_one_of_its_name_and_the_page_keeps_its_words():
    tables = bench("tables")
    page = "\n".join(
        [
            "Words before.",
            "",
            tables.BEGIN,
            "",
            "An old machine; 2020-01-01",
            "",
            tables.table([row("a (top-1: x 90.0 %)", "9 s"), row("a sweep of 4 runs of 2.0 s in one process: b", "1")]),
            "",
            tables.END,
            "",
            "Words after | with a bar.",
            "",
        ]
    )
    written = tables.updated(
        page,
        [row("a (top-1: x 91.0 %)", "8 s", kept=True), row("c", "1 MB", peer="2 MB", ratio="0.5")],
        "A machine; 2021-01-01",
    )
    assert written.startswith("Words before.\n")
    assert written.endswith("Words after | with a bar.\n")
    assert "An old machine" not in written
    assert "A machine; 2021-01-01" in written
    lines = list(tables.lines_of(written).values())
    assert lines == [
        "| a (top-1: x 91.0 %) | 8 s | – | – | – | yes |",
        "| a sweep of 4 runs of 2.0 s in one process: b | 1 | – | – | – | – |",
        "| c | 1 MB | 2 MB | 0.5 | – | – |",
    ]


def test_writing_the_same_rows_again_changes_nothing():
    tables = bench("tables")
    page = f"{tables.BEGIN}\n\n{tables.END}\n"
    rows = [tables.time_row("a", 0.5, 2.0, limit=0.2), tables.memory_row("b", 1e6, 2e6)]
    once = tables.updated(page, rows, "here")
    assert tables.updated(once, rows, "here") == once
    assert "| a | 500.0 ms | 2.00 s | 0.25 | 0.20 | **no** |" in once
    assert "| b | 1 MB | 2 MB | 0.50 | – | – |" in once


def test_a_page_without_a_table_is_refused():
    with pytest.raises(ValueError, match="has no table"):
        bench("tables").updated("Words.", [], "here")


@pytest.mark.parametrize(
    ("cell", "value"),
    [
        ("44.3 ms", (0.0443, "s")),
        ("1.38 s", (1.38, "s")),
        ("537 MB", (537e6, "bytes")),
        ("0.184", (0.184, "")),
        ("–", None),
        ("1.05 or +2 ms", None),
    ],
)
def test_values_are_read_back_from_cells(cell, value):
    read = bench("tables").value_of(cell)
    if value is None:
        assert read is None
    else:
        assert read == (pytest.approx(value[0]), value[1])


def tables_of_runs(**values: list[str]) -> list[dict[str, str]]:
    """The lines of each run's table, from each row's values in all runs."""
    return [
        {what: row(what, of_runs[i]).line() for what, of_runs in values.items()}
        for i in range(len(next(iter(values.values()))))
    ]


@pytest.mark.parametrize(
    ("base", "this", "verdict"),
    [
        (["1.00 s", "1.02 s", "1.04 s"], ["1.10 s", "1.11 s", "1.09 s"], "slower"),
        (["1.00 s", "1.02 s", "1.20 s"], ["1.10 s", "1.11 s", "1.09 s"], ""),  # within the base's range
        (["1.00 s", "1.00 s", "1.00 s"], ["1.04 s", "1.04 s", "1.04 s"], ""),  # within 5 %
        (["1.00 s", "1.02 s", "1.04 s"], ["0.90 s", "0.80 s", "1.30 s"], "faster"),
        (["100 MB", "100 MB", "100 MB"], ["110 MB", "110 MB", "110 MB"], "larger"),
        (["900.0 ms", "900.0 ms", "900.0 ms"], ["1.00 s", "1.00 s", "1.00 s"], "slower"),
    ],
)
def test_slower_means_more_than_five_percent_and_outside_the_range(base, this, verdict):
    (comparison,) = bench("compare").compared(tables_of_runs(a=base), tables_of_runs(a=this))
    assert comparison.verdict == verdict
    assert comparison.worse == (verdict in ("slower", "larger"))
    assert bench("compare").shown([comparison]).endswith(f"| {verdict} |")


def test_rows_that_one_tree_lacks_are_not_compared():
    compared = bench("compare").compared(tables_of_runs(a=["1 s"], b=["1 s"]), tables_of_runs(a=["1 s"], c=["1 s"]))
    assert [comparison.what for comparison in compared] == ["a"]


def trees(tmp_path, ours: str, base: str):
    """Two trees whose benchmarks print a table with one row; the base's are one file, as they once were."""
    tables = bench("tables")
    folders = {"base": tmp_path / "base", "this": tmp_path / "this"}
    scripts = {"base": "scripts/bench.py", "this": "scripts/bench/__main__.py"}
    for name, value in (("base", base), ("this", ours)):
        script = folders[name] / scripts[name]
        script.parent.mkdir(parents=True)
        lines = tables.table([row("a", value)])
        script.write_text(f"import sys\nprint({lines!r})\nprint(sys.argv[1:], file=sys.stderr)\n", encoding="utf-8")
    return folders["base"], folders["this"]


def test_each_tree_runs_its_own_benchmarks_in_turn(tmp_path, monkeypatch, capsys):
    compare = bench("compare")
    base, this = trees(tmp_path, ours="2.00 s", base="1.00 s")
    monkeypatch.setattr(compare, "ROOT", this)
    assert compare.main(["--base", str(base), "--topic", "startup", "--runs", "2"]) == 1
    out, err = capsys.readouterr()
    assert out.splitlines()[-1] == "| a | 1.00 s (1.00 s to 1.00 s) | 2.00 s (2.00 s to 2.00 s) | 2.00 | slower |"
    assert [line.rpartition(" ")[2] for line in err.splitlines()] == [str(base), str(this)] * 2


def test_a_benchmark_that_fails_ends_the_comparison_with_its_sentence(tmp_path, monkeypatch):
    compare = bench("compare")
    base, this = trees(tmp_path, ours="1.00 s", base="1.00 s")
    monkeypatch.setattr(compare, "ROOT", this)
    (base / "scripts" / "bench.py").write_text("import sys\nsys.exit('its peer is missing')\n", encoding="utf-8")
    with pytest.raises(SystemExit, match="help measured nothing: its peer is missing"):
        compare.main(["--base", str(base), "--topic", "startup", "--runs", "1"])


@pytest.mark.slow
def test_cheap_topics_measure_and_are_written_to_a_page(tmp_path):
    tables = bench("tables")
    page = tmp_path / "page.md"
    shutil.copy(PAGE, page)
    command = [sys.executable, str(BENCH), "report", "average_precision", "--quick", "--write", "--page", str(page)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stderr
    before, after = (tables.lines_of(p.read_text(encoding="utf-8")) for p in (PAGE, page))
    new = {what: line for what, line in after.items() if what not in before}
    assert new == tables.lines_of(done.stdout)
    assert set(new) == {
        "report over 100 records, terminal",
        "report over 100 records, terminal: peak memory",
        "report over 100 records, html",
        "report over 100 records, html: peak memory",
        "AP of 50 images with 100 detections each, 80 classes, pycocotools",
    }
    assert {what: after[what] for what in before} == before
