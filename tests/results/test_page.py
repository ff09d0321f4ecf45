"""A report's page in a browser."""

from __future__ import annotations

import json
import re
import shutil
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.pages import look
from support.reports import leaderboard, one, record, tell, write

METHODS = ("adapter", "bitfit", "cst", "fact", "ftp", "full", "linear", "lora", "losa", "lst", "spt", "vpt")


def crowd(folder: Path) -> Path:
    """Twelve methods on digits, six of them on a second backbone too, and some on photos, with wide intervals."""
    for place, method in enumerate(METHODS):
        for backbone in ("vit_nano", "resnet_nano") if place % 2 else ("vit_nano",):
            for seed in range(3):
                accuracy = 0.99 - 0.02 * place + 0.01 * (seed - 1) * (place % 4)
                more = {
                    "config__choices": {"method": method, "backbone": backbone, "data": "digits"},
                    "stamps__backbone": {"name": backbone, "weights": "hub", "fingerprint": backbone},
                    "stamps__data__images": {"train": 1000, "test": 250},
                    "costs__parameters__method": 0 if method == "linear" else 1000 * (place + 1),
                    "costs__time__train": 10.0 + place,
                }
                changes = {f"{k}": v for k, v in more.items()}
                each = record(method, "digits", seed, min(accuracy, 1.0), **changes)
                write(folder, each | {"id": f"{method}-{backbone}-digits-{seed}"})
                if place % 3 and seed < 2:
                    changes["config__choices"] = more["config__choices"] | {"data": "photos"}
                    each = record(method, "photos", seed, accuracy - 0.3, **changes)
                    write(folder, each | {"id": f"{method}-{backbone}-photos-{seed}"})
    return folder


def swept(folder: Path) -> None:
    """Two methods in two settings, of which validation images choose one, and a run that has no test images."""
    for method in ("lora", "bitfit"):
        for rate in (1e-3, 1e-2):
            metrics = {"test/accuracy": 0.8, "val/accuracy": 0.7 + rate}
            each = record(method, metrics=metrics, config__optimizer__lr=rate)
            write(folder, each | {"id": f"{method}-{rate}"})
    write(folder, record("linear", metrics={"val/accuracy": 0.5}))


@pytest.fixture(scope="module")
def seen(suite, tmp_path_factory) -> dict[str, Any]:
    """Two pages as one browser shows them, in several widths and at several addresses."""
    folder = tmp_path_factory.mktemp("page")
    shutil.copytree(suite, folder / "suite")
    layers = [{"name": f"blocks.{i}.attn.qkv.weight", "kind": "lora", "parameters": 100 * (i + 1)} for i in range(3)]
    for path in (folder / "suite").glob("lora-*/result.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"plan": {"layers": layers}}))
    crowd(folder / "crowd")
    long = {"method": "m" * 150, "backbone": "b" * 60, "data": "a_folder_of_photos_" * 5}
    write(folder / "long", record("lora"), record("full", config__choices=long, config__method__options={"rank": 1}))
    pages = {}
    swept(folder / "swept")
    for name in ("suite", "crowd", "long", "swept"):
        tell("report", folder / name, "--format=html")
        pages[name] = folder / name / "report.html"
    widths = {"suite": 1400, "suite sorted": 900, "suite filtered": 900, "crowd": 1400, "crowd phone": 390}
    widths |= {"crowd filtered": 900, "long phone": 390, "suite phone": 390, "swept": 900, "swept filtered": 900}
    views = {name: (pages[name.partition(" ")[0]], width) for name, width in widths.items()}
    fragments = {"suite sorted": "#q=kitti&sort=params&order=ascending", "suite filtered": "#q=bitfit"}
    fragments["swept filtered"] = "#q=bitfit"
    fragments["crowd filtered"] = "#q=bitfit lora resnet_nano photos"
    return look(folder, views, fragments)


def charts(view: dict[str, Any], **wanted: str) -> list[dict[str, Any]]:
    return [chart for chart in view["charts"] if wanted.items() <= chart.items()]


def test_the_page_draws_every_row_where_its_figures_are(seen, suite):
    whole = seen["suite"]
    assert whole["count"] == "3 of 3 rows"
    train = charts(whole, chart="cost", cost="train", panel="VTAB-1k, mean of the groups")[0]
    assert {mark["label"] for mark in train["marks"]} == {"lora", "bitfit", "linear"}
    assert {mark["label"] for mark in train["marks"] if mark["front"] == "true"} >= {"lora", "bitfit"}
    (kitti,) = charts(whole, chart="dots", panel="kitti, 10,000,000 test images")
    (_, first, at), *_, (_, last, end) = [tick for tick in kitti["ticks"] if tick[0] == "x"]
    lines = leaderboard(suite)
    for mark in kitti["marks"]:
        value = 100 * float(one(lines, method=mark["label"], task="vtab/kitti")["value"])
        place = at + (end - at) * (value - float(first)) / (float(last) - float(first))
        assert mark["at"][0] == pytest.approx(place, abs=0.2), "marks stand where the axis says"
    assert len(kitti["marks"]) == 3
    assert ordered(whole) == ["lora", "bitfit", "linear"]


def ordered(view: dict[str, Any]) -> list[str]:
    """The methods of the first three rows that name one."""
    methods = ("lora", "bitfit", "linear")
    return [row["cells"][0] for row in view["rows"] if not row["hidden"] and row["cells"][0] in methods][:3]


def test_an_address_sorts_and_filters(seen):
    assert ordered(seen["suite sorted"]) == ["linear", "bitfit", "lora"]
    assert {chart["panel"] for chart in seen["suite sorted"]["charts"]} == {"kitti"}
    assert seen["suite sorted"]["drawn"].count("lora: budget by layer") == 1
    filtered = seen["suite filtered"]
    assert filtered["count"] == "1 of 3 rows"
    assert {mark["label"] for chart in filtered["charts"] for mark in chart["marks"]} == {"bitfit"}
    assert set(ordered(filtered)) == {"bitfit"}
    filtered = seen["crowd filtered"]
    assert filtered["count"] == "2 of 18 rows"
    assert {chart["panel"] for chart in filtered["charts"]} == {"photos"}
    names = {mark["label"] for chart in filtered["charts"] for mark in chart["marks"]}
    assert names == {"bitfit on resnet_nano", "lora on resnet_nano"}, "of words of one kind any, of each kind one"


def test_the_filter_takes_the_settings_that_were_tried_too(seen):
    def tried(view):
        names = [row["cells"][0] for row in view["rows"] if not row["hidden"]]
        return {name for name in names if "lr=" in name}

    assert tried(seen["swept"]) == {
        f"{method} lr={rate}" for method in ("lora", "bitfit") for rate in ("0.001", "0.01")
    }
    assert tried(seen["swept filtered"]) == {"bitfit lr=0.001", "bitfit lr=0.01"}


def test_the_page_says_why_figures_are_of_fewer_runs_than_there_are(seen):
    counted = (
        "Figures are of 2 of 5 complete runs, metric test/accuracy; others: 2 in settings that were not chosen "
        "(settings=all shows them), 1 named in the notes or left out below."
    )
    assert counted in seen["swept"]["text"]
    assert "171 runs, metric test/accuracy" in seen["suite"]["text"]


@pytest.mark.parametrize("view", ["suite", "crowd", "crowd phone"])
def test_all_that_is_drawn_lies_inside_its_axes(seen, view):
    whiskers = 0
    for chart in seen[view]["charts"]:
        left, top, right, bottom = (float(chart[side]) for side in ("left", "top", "right", "bottom"))
        for whisker in chart["whiskers"]:
            whiskers += 1
            x0, y0, x1, y1 = whisker["box"]
            assert left - 1 <= x0 <= x1 <= right + 1, (chart["title"], whisker)
            assert top - 1 <= y0 <= y1 <= bottom + 1, (chart["title"], whisker)
        for mark in chart["marks"]:
            assert left - 1 <= mark["at"][0] <= right + 1
            assert top <= mark["at"][1] <= bottom
        for x0, y0, x1, y1 in chart["texts"]:
            assert -1 <= x0 < x1 <= chart["width"] / chart["scale"] + 2, (chart["title"], x0, x1)
            assert -1 <= y0 < y1
        boxes = [name["box"] for name in chart["names"]]
        for i, a in enumerate(boxes):
            for b in boxes[i + 1 :]:
                assert a[2] <= b[0] + 1 or b[2] <= a[0] + 1 or a[3] <= b[1] + 3 or b[3] <= a[1] + 3, "names are legible"
    assert whiskers > 20


def test_epochs_are_whole_on_ticks(seen):
    curves = charts(seen["crowd"], chart="curve")
    assert {chart["of"] for chart in curves} == {"val", "loss"}
    for chart in curves:
        assert [text for axis, text, _ in chart["ticks"] if axis == "x"] == ["1", "2", "3"]


def test_a_method_has_one_colour_everywhere(seen):
    view = seen["crowd"]
    looks: dict[str, set[tuple[str, str]]] = {}
    colours: dict[str, set[str]] = {}
    for chart in view["charts"]:
        for mark in chart["marks"]:
            method, _, backbone = mark["label"].partition(" on ")
            looks.setdefault(f"{method} {backbone}", set()).add((mark["colour"], mark["shape"][:1] + backbone))
            colours.setdefault(method, set()).add(mark["colour"])
        for line in chart["lines"]:
            colours[line["label"].partition(" on ")[0]].add(line["colour"])
    for text, colour in view["legend"]:
        colours[text].add(colour)
    swatches = 0
    for row in view["rows"]:
        for text, colour in row["swatches"]:
            swatches += 1
            colours[text].add(colour)
    assert swatches >= 18 + 30, "tables name methods with their colours"
    assert set(colours) == set(METHODS)
    assert all(len(its) == 1 for its in colours.values()), colours
    assert len({next(iter(its)) for its in colours.values()}) == 8
    assert len(set().union(*looks.values())) == len(looks) == 18, "no two rows look alike"


def test_the_best_figures_are_bold(seen, suite):
    best = max(100 * float(line["value"]) for line in leaderboard(suite) if line["task"] == "vtab/kitti")
    bold = [text for row in seen["suite"]["rows"] for text in row["bold"]]
    assert len([text for text in bold if text.startswith(f"{best:.1f}")]) >= 1
    assert all(row["cells"][0] == "lora" for row in seen["suite"]["rows"] if row["bold"])


def test_the_answer_stands_first_then_methods_by_backbone(seen):
    view = seen["crowd"]
    top = view["headings"]
    assert top[1:4] == ["Which method?", "digits: accuracy on 250 test images, 3 seeds", top[3]]
    assert top[3].startswith("photos: ")
    assert top[4:6] == ["Methods by backbone", "digits: methods by backbone, accuracy %"]
    assert re.search(r"Highest: adapter on vit_nano, 99.0 ± 0.0 %. Inside its noise: bitfit on ", view["text"])
    assert re.search(r"Cheapest of these \d+: adapter on vit_nano, bitfit on .* by time", view["text"])
    assert re.search(r"Not compared: adapter, .*\blinear\b.* \(no run on it\)", view["text"])
    assert re.search(r"This report: \d{4}-\d\d-\d\d, (commit|version) ", view["text"])
    line = next(row["cells"] for row in view["rows"] if row["cells"][0] == "bitfit")
    assert [cell[:4] for cell in line[1:3]] == ["97.0", "97.0"]
    assert "19 tasks" in seen["suite"]["headings"][2]


def test_a_row_that_lacks_a_data_set_empties_no_chart(seen):
    by_panel = {panel: charts(seen["crowd"], panel=panel, chart="dots")[0] for panel in ("digits", "photos")}
    assert len(by_panel["digits"]["marks"]) == 18
    assert len(by_panel["photos"]["marks"]) == 12
    for chart in seen["crowd"]["charts"]:
        assert chart["marks"] or chart["lines"]
    assert "of 250 test images" in by_panel["digits"]["marks"][0]["told"]


def test_wide_screens_have_charts_side_by_side_and_phones_one_that_is_legible(seen):
    tops = [round(chart["place"][1]) for chart in charts(seen["crowd"], panel="digits")]
    assert max(map(tops.count, tops)) >= 3
    assert max(chart["place"][2] for chart in seen["crowd"]["charts"]) > 1200, "the width is used"
    assert seen["suite phone"]["broken"] == [], "data sets are broken after an underscore, not within a word"
    assert any(row["cells"][0] == "diabetic_retinopathy" for row in seen["suite phone"]["rows"])
    shades = seen["suite phone"]["scrolled"]
    assert shades
    assert all("gradient" in shade for shade in shades), "a table that scrolls says so"
    for phone in (seen["crowd phone"], seen["long phone"], seen["suite phone"]):
        assert phone["overflow"] == 0
        assert phone["widest"] <= 390
        assert len({round(chart["place"][0]) for chart in phone["charts"]}) == 1
        assert phone["smallest"] > 10, "text is not shrunk with its drawing"


def test_colours_can_be_told_apart_by_the_colour_blind():
    """On both grounds; in simulations of Machado et al. (2009), as distances in OKLab."""
    css = (files("peftbench.results") / "page.css").read_text()
    light, dark = css.split("prefers-color-scheme: dark")
    for sheet in (light, dark.partition("@media")[0]):
        ground = re.search(r"--ground: (#\w+)", sheet)[1]
        colours = np.array([linear_rgb(c) for c in re.findall(r"--c\d: (#\w+)", sheet)])
        assert len(colours) == 8
        lightness = colours @ LUMINANCE
        base = linear_rgb(ground) @ LUMINANCE
        contrast = (np.maximum(lightness, base) + 0.05) / (np.minimum(lightness, base) + 0.05)
        assert contrast.min() >= 3
        for vision, matrix in VISIONS.items():
            lab = np.cbrt(np.clip(colours @ matrix.T, 0, 1) @ LMS.T) @ OKLAB.T
            distances = np.linalg.norm(lab[:, None] - lab[None], axis=-1)[np.triu_indices(8, 1)]
            assert distances.min() > 0.1, (vision, distances.min())


LUMINANCE = np.array([0.2126, 0.7152, 0.0722])
LMS = np.array([[0.4122, 0.5363, 0.0514], [0.2119, 0.6807, 0.1074], [0.0883, 0.2817, 0.6300]])
OKLAB = np.array([[0.2105, 0.7936, -0.0041], [1.9780, -2.4286, 0.4506], [0.0259, 0.7828, -0.8087]])
VISIONS = {
    "normal": np.eye(3),
    "protanopia": np.array([[0.1523, 1.0526, -0.2049], [0.1145, 0.7863, 0.0992], [-0.0039, -0.0481, 1.0520]]),
    "deuteranopia": np.array([[0.3673, 0.8606, -0.2280], [0.2801, 0.6725, 0.0474], [-0.0118, 0.0429, 0.9689]]),
    "tritanopia": np.array([[1.2555, -0.0767, -0.1788], [-0.0784, 0.9309, 0.1476], [0.0047, 0.6914, 0.3039]]),
}


def linear_rgb(colour: str) -> np.ndarray:
    values = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


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
    fronts = drawn_fronts(tmp_path)
    assert fronts["train"] == {("linear", "bitfit"), ("lst", "losa")}
    assert fronts["parameters"] == {("linear", "bitfit", "lora")}


def panels(folder: Path, *words: str) -> list[dict[str, Any]]:
    """What the page draws, by data set."""
    tell("report", folder, "--format=html", *words)
    content = (folder / "report.html").read_text()
    return json.loads(re.search(r'id="data">(.*?)</script>', content)[1])["panels"]


def drawn_fronts(folder: Path) -> dict[str, set[tuple[str, ...]]]:
    """By cost, the fronts of the one data set."""
    (panel,) = panels(folder)
    labels = [row["label"] for row in panel["rows"]]
    return {cost: {tuple(labels[i] for i in front) for front in panel["fronts"][cost]} for cost in panel["fronts"]}


def test_of_a_loss_the_page_draws_figures_and_no_front(tmp_path):
    write(tmp_path, record("lora", accuracy=-1.5), record("bitfit", accuracy=0.5))
    (panel,) = panels(tmp_path, "metric=test/loss")
    assert {row["label"]: row["value"] for row in panel["rows"]} == {"lora": 2.5, "bitfit": 0.5}
    assert not any(panel["fronts"].values())
    assert "Which method?" not in (tmp_path / "report.html").read_text()


def test_a_front_is_over_all_backbones_that_may_be_compared(tmp_path):
    """By parameters on any machine; by time and memory on one."""
    rows = (
        ("linear", "small", "a CPU", 0.5, 1.0, 0),
        ("lora", "small", "a CPU", 0.6, 4.0, 200),
        ("bitfit", "large", "a CPU", 0.7, 3.0, 100),
        ("full", "large", "another", 0.9, 2.0, 500),
    )
    for method, backbone, machine, accuracy, seconds, parameters in rows:
        more = {
            "config__choices": {"method": method, "backbone": backbone, "data": "digits"},
            "stamps__backbone": {"name": backbone, "weights": "hub", "fingerprint": backbone},
            "stamps__machine": {"processor": machine, "threads": 2, "devices": []},
            "costs__time__train": seconds,
            "costs__parameters__method": parameters,
        }
        write(tmp_path, record(method, accuracy=accuracy, **more))
    fronts = drawn_fronts(tmp_path)
    assert fronts["parameters"] == {("linear on small", "bitfit on large", "full on large")}
    assert fronts["train"] == {("linear on small", "bitfit on large"), ("full on large",)}


def test_panels_are_of_a_mean_and_of_each_data_set_and_name_their_images(tmp_path):
    for method, data_sets in (("lora", ("digits", "photos")), ("bitfit", ("digits",))):
        for data in data_sets:
            metrics = {"test/accuracy": 0.9 + 0.01 * (method == "bitfit"), "val/accuracy": 0.8}
            more = {"metrics": metrics, "stamps__data__images": {"test": 250, "val": 1100}}
            write(tmp_path, record(method, data, **more))
    shown = panels(tmp_path, "means=all")
    assert [(p["title"], [row["label"] for row in p["rows"]], p["without"], p["images"]) for p in shown] == [
        ("Mean over 2 data sets", ["lora"], ["bitfit"], ""),
        ("digits", ["bitfit", "lora"], [], "250 test images"),
        ("photos", ["lora"], [], "250 test images"),
    ]
    assert [p["images"] for p in panels(tmp_path, "metric=val/accuracy")] == ["1,100 validation images"] * 2
