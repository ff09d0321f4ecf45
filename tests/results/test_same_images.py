"""Two runs compared image by image: the weights of one seed, not their methods."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from peftbench.results.per_image import FILE, read_right, write_right
from peftbench.results.stats import exact_mcnemar
from support.reports import record, tell, write

TITLE = "These weights, not the method"


def run(folder: Path, method: str, right, seed: int = 0, **more) -> None:
    """A run with these images right, in a folder as a real one leaves it."""
    each = record(method, seed=seed, accuracy=float(np.mean(right)), **more)
    each["stamps"]["data"]["images"] = {"test": len(right)}
    write(folder, each)
    each["stamps"]["right"] = write_right(right, "accuracy", folder / each["id"])
    write(folder, each)


def bits(both: int, first: int, second: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    """Of two runs which images they have right: so many both, the first alone, the second alone, neither."""
    images = np.repeat([3, 1, 2, 0], [both, first, second, neither])
    images = np.random.default_rng(0).permutation(images)
    return (images & 1).astype(bool), (images & 2).astype(bool)


def image_tests(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(tell("report", folder, "--format=csv", "table=weights"))))


def test_p_is_that_of_the_exact_binomial_test():
    for n in range(25):
        for k in range(n + 1):
            expected = scipy.stats.binomtest(k, n, 0.5).pvalue if n else 1.0
            assert exact_mcnemar(k, n - k) == pytest.approx(expected, rel=1e-9)
    assert exact_mcnemar(1400, 1150) == pytest.approx(scipy.stats.binomtest(1150, 2550, 0.5).pvalue, rel=1e-6)


@pytest.mark.parametrize(("counts", "verdict"), [((60, 25, 5, 13), "better"), ((60, 5, 25, 13), "worse"),
                                                 ((60, 12, 8, 23), "inside the noise")])  # fmt: skip
def test_one_seed_is_compared_image_by_image_and_called_what_it_is(counts, verdict, tmp_path):
    lora, bitfit = bits(*counts)
    run(tmp_path, "lora", lora)
    run(tmp_path, "bitfit", bitfit)
    (line,) = image_tests(tmp_path)
    mine, theirs = (counts[1], counts[2]) if line["first"] == "lora" else (counts[2], counts[1])
    assert (line["only_first"], line["only_second"], line["images"]) == (str(mine), str(theirs), "103")
    assert float(line["p"]) == pytest.approx(scipy.stats.binomtest(mine, mine + theirs, 0.5).pvalue)
    better = {"better": "lora", "worse": "bitfit"}.get(verdict)
    assert line["verdict"] == ("inside the noise" if better is None else "better")
    answer = tell("report", tmp_path).split("\n\n")[0]
    assert "Methods are compared image by image (McNemar)" in answer
    assert ("Inside its noise" in answer, "lower by more than the noise of its" in answer) == (not better, bool(better))
    for form in ("terminal", "markdown", "latex"):
        shown = tell("report", tmp_path, f"--format={form}")
        assert TITLE in shown
        assert "too few pairs to tell: 1, not 3" in shown, "there is still none on the methods"
        assert (f"these weights of {better} are better" if better else "inside the noise") in shown.split(TITLE)[1]
    tell("report", tmp_path, "--format=html")
    assert TITLE in (tmp_path / "report.html").read_text()


def test_two_seeds_are_two_tests_corrected_for_their_number_and_three_are_none(tmp_path):
    for seed, counts in enumerate([(60, 20, 6, 14), (60, 14, 6, 20)]):
        for method, right in zip(("lora", "bitfit"), bits(*counts), strict=True):
            run(tmp_path, method, right, seed)
    a, b = image_tests(tmp_path)
    assert [line["seed"] for line in (a, b)] == ["0", "1"]
    assert float(a["p_holm"]) == pytest.approx(2 * float(a["p"]))
    assert float(b["p_holm"]) == pytest.approx(max(float(b["p"]), 2 * float(a["p"])))
    for method, right in zip(("lora", "bitfit"), bits(60, 14, 6, 20), strict=True):
        run(tmp_path, method, right, 2)
    assert image_tests(tmp_path) == []
    assert TITLE not in tell("report", tmp_path)
    run(tmp_path, "linear", bits(60, 14, 6, 20)[1], 2)
    answer = tell("report", tmp_path).split("\n\n")[0]
    assert "linear is compared image by image (McNemar). linear shares fewer than 3 seeds with the highest" in answer
    assert "Methods are compared image by image" not in answer


@pytest.mark.parametrize("damage", ["flipped", "short", "long", "gone", "another run's", "a folder"])
def test_a_file_that_is_not_the_records_is_named_and_not_read(damage, tmp_path):
    lora, bitfit = bits(60, 25, 5, 13)
    run(tmp_path, "lora", lora)
    run(tmp_path, "bitfit", bitfit)
    file = tmp_path / "lora-x-digits-s0" / FILE
    content = bytearray(file.read_bytes())
    file.unlink()
    if damage == "flipped":
        content[3] ^= 16
        file.write_bytes(content)
    elif damage in ("short", "long"):
        file.write_bytes(content[:-1] if damage == "short" else content + b"\0")
    elif damage == "another run's":
        file.write_bytes((tmp_path / "bitfit-x-digits-s0" / FILE).read_bytes())
    elif damage == "a folder":
        file.mkdir()
    assert image_tests(tmp_path) == []
    shown = tell("report", tmp_path)
    assert TITLE not in shown
    assert f"{FILE} is missing, or is not that of the record, for 1 run (lora-x-digits-s0)" in shown


@pytest.mark.parametrize("stamp", [None, 3, [], {}, {"images": "103"}, {"images": -1}, {"sha256": 4}, {"metric": None},
                                   {"images": 10**30}, {"images": True}])  # fmt: skip
def test_what_is_no_stamp_of_images_is_passed_over(stamp, tmp_path):
    for method, right in zip(("lora", "bitfit"), bits(60, 25, 5, 13), strict=True):
        run(tmp_path, method, right)
    each = record("lora", stamps__data__images={"test": 103})
    good = {"metric": "accuracy", "images": 103, "sha256": "0" * 64}
    each["stamps"]["right"] = good | stamp if isinstance(stamp, dict) and stamp else stamp
    write(tmp_path, each)
    assert image_tests(tmp_path) == []


@pytest.mark.parametrize("other", [{"data": {"skipped": ["a.png"]}}, {"images": 102}])
def test_other_images_are_not_compared(other, tmp_path):
    lora, bitfit = bits(60, 25, 5, 13)
    run(tmp_path, "lora", lora)
    if "images" in other:
        run(tmp_path, "bitfit", bitfit[:102])
    else:
        run(tmp_path, "bitfit", bitfit, stamps__data__skipped=["a.png"])
    assert image_tests(tmp_path) == []


def test_the_file_is_whole_or_not_there_and_reads_back(tmp_path):
    for n in (1, 7, 8, 9, 1000):
        right = np.random.default_rng(n).random(n) < 0.5
        stamp = write_right(right, "accuracy", tmp_path)
        assert (tmp_path / FILE).stat().st_size == -(-n // 8)
        from peftbench.results.per_image import stamped

        read = stamped({"right": stamp})
        assert read_right(str(tmp_path), read).tolist() == right.tolist()
        assert read_right(str(tmp_path), replace(read, sha256="0" * 64)) is None
    assert [p.name for p in tmp_path.iterdir()] == [FILE]
