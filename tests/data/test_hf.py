"""Hugging Face data sets on disk: save_to_disk and Parquet, without a network."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from peftbench.common.errors import UserError
from peftbench.data.base import split_hash
from peftbench.data.hf import HuggingFace

datasets = pytest.importorskip("datasets")


def table(count: int = 20, start: int = 0, labels: Any = None, **columns: Any) -> Any:
    """So many images of two classes, no two of them alike."""
    kinds = {"image": datasets.Image(), "label": datasets.ClassLabel(names=["dog", "cat"])}
    pixels = [encoded(Image.new("RGB", (8, 8), (start + i, 0, 0))) for i in range(count)]
    rows = {**columns, "image": pixels, "label": labels if labels is not None else [i % 2 for i in range(count)]}
    made = datasets.Dataset.from_dict(rows)
    for name, kind in kinds.items():
        made = made.cast_column(name, kind)
    return made


def encoded(image: Image.Image) -> dict[str, Any]:
    with io.BytesIO() as file:
        image.save(file, "PNG")
        return {"bytes": file.getvalue(), "path": None}


def refused(root: Path, **options: Any) -> str:
    with pytest.raises(UserError) as told:
        HuggingFace(root=str(root), **options).load()
    assert "\n" not in str(told.value)
    return str(told.value)


def test_splits_on_disk_are_taken_as_they_are(tmp_path):
    parts = {"train": table(6), "validation": table(4, 50), "test": table(4, 90, [-1] * 4), "extra": table(4, 130)}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "pets")
    splits = HuggingFace(root=str(tmp_path / "pets")).load()
    assert (splits.name, splits.classes) == ("pets", ("cat", "dog"))
    assert (splits.train.labels.tolist(), len(splits.val or ())) == ([1, 0, 1, 0, 1, 0], 4)
    assert list(splits.train.names)[:2] == ["train/000000.png", "train/000001.png"]
    assert np.asarray(Image.open(splits.train.images[3]))[0, 0].tolist() == [3, 0, 0]
    assert splits.test is None
    assert splits.notes == (
        "left out, the split extra, which is none of train, val and test",
        "left out, the split test, which has no labels (4 images)",
    )
    with pytest.raises(UserError, match="pets: has images to train on and none to test"):
        splits.roles("fit")


def test_one_table_is_split_as_a_folder_is_and_the_same_wherever_it_lies(tmp_path):
    for place in ("here", "there"):
        table().save_to_disk(tmp_path / place / "pets")
    here, there = (HuggingFace(root=str(tmp_path / p / "pets")).load() for p in ("here", "there"))
    assert [len(s) for s in here.roles("fit")] == [14, 2, 4]
    assert (here.name, split_hash(*here.roles("fit"))) == (there.name, split_hash(*there.roles("fit")))
    assert "-made-0.1-0.2-s0" in here.name


def test_parquet_s_shards_are_splits_by_their_names_and_groups_stay_together(tmp_path):
    for name, part in (("train-00000-of-00002", table(4)), ("train-00001-of-00002", table(4, 9))):
        part.to_parquet(tmp_path / f"{name}.parquet")
    table(4, 99).to_parquet(tmp_path / "test-00000-of-00001.parquet")
    splits = HuggingFace(root=str(tmp_path), val_fraction=0).load()
    assert (len(splits.train), len(splits.test or ())) == (8, 4)
    one = tmp_path / "whole.parquet"
    table(30, 0, patient=[f"p{i // 3}" for i in range(30)]).to_parquet(one)
    roles = HuggingFace(root=str(one), group="patient").load().roles("fit")
    patients = [{int(Path(name).stem) // 3 for name in role.names} for role in roles]
    assert all(patients)
    assert not patients[0] & patients[1] | patients[0] & patients[2] | patients[1] & patients[2]


def test_a_column_of_bytes_and_classes_as_words_will_do(tmp_path):
    cells = [encoded(Image.new("L", (4, 4), i))["bytes"] for i in range(20)]
    words = ["b", "a"] * 10
    made = datasets.Dataset.from_dict({"picture": cells, "class": words, "note": words})
    made.to_parquet(tmp_path / "a.parquet")
    splits = HuggingFace(root=str(tmp_path / "a.parquet")).load()
    assert splits.classes == ("a", "b")
    assert HuggingFace(root=str(tmp_path / "a.parquet"), label="note").load().classes == ("a", "b")


def test_tables_without_images_or_classes_are_refused_with_their_columns(tmp_path):
    file = tmp_path / "a.parquet"
    datasets.Dataset.from_dict({"text": ["x"], "label": [0]}).to_parquet(file)
    assert "a.parquet: has no column of images (the library's Image, or bytes); it has text, label" in refused(file)
    assert "data.image=photo: " in refused(file, image="photo")
    assert "row 0: text holds str, and no image; expected the bytes" in refused(file, image="text")
    table(4, kind=[0.5] * 4).remove_columns("label").to_parquet(file)
    assert "has no column of classes (the library's ClassLabel, or one called label); it has kind, image" in refused(
        file
    )
    assert "row 0: kind is a float; expected a class" in refused(file, label="kind")
    assert "data.group=site: " in refused(file, label="kind", group="site")
    table(4, labels=[0, 1, -1, 0]).to_parquet(file)
    assert "1 of 4 rows have no label" in refused(file)
    several = {"image": datasets.Image(), "fine": datasets.ClassLabel(names=["a"]), "coarse": datasets.ClassLabel(1)}
    datasets.Dataset.from_dict({k: [] for k in several}, features=datasets.Features(several)).to_parquet(file)
    assert "several columns that may be it, fine, coarse; name it, such as data.label=fine" in refused(file)


def test_what_is_no_data_set_is_refused_in_a_sentence(tmp_path):
    assert "there is no" in refused(tmp_path / "gone")
    assert "holds neither what save_to_disk writes" in refused(tmp_path)
    (tmp_path / "a.parquet").write_bytes(b"PAR1 nothing")
    assert "cannot be read as a data set" in refused(tmp_path)
    (tmp_path / "state.json").write_text("{")
    assert "cannot be read as a data set" in refused(tmp_path)
    paths = [{"bytes": None, "path": "/etc/passwd"}]
    made = datasets.Dataset.from_dict({"image": paths, "label": [0]}).cast_column("image", datasets.Image())
    folder = tmp_path / "b"
    folder.mkdir()
    with_paths = made.with_format("arrow")[:]
    import pyarrow.parquet

    pyarrow.parquet.write_table(with_paths, folder / "b.parquet")
    assert "image holds the path /etc/passwd alone, and no image" in refused(folder)


def test_mistakes_of_a_split_name_the_data_set_of_the_user(tmp_path):
    table(2).save_to_disk(tmp_path / "few")
    splits = HuggingFace(root=str(tmp_path / "few")).load()
    with pytest.raises(UserError, match="few: 2 images are too few to be split") as told:
        splits.roles("fit")
    assert "rows.csv" not in str(told.value)
