"""Kept taps that are read: ahead by a thread, by several readers, into memory that is used again, on to a GPU."""

from __future__ import annotations

import gc
import threading
import time

import pytest
import torch

from peftbench.common.errors import UserError
from peftbench.data import read_ahead
from peftbench.data.read_ahead import ReadAhead
from peftbench.taps import in_file, kept
from peftbench.taps.buffers import Buffers
from peftbench.taps.entries import entries
from peftbench.taps.in_file import InFile
from peftbench.taps.store import taps_on_disk
from support.finished_runs import same
from support.runs import learned
from support.stops import interrupted_and_undisturbed
from support.taps import RUN, cached, history, record, tensors


def test_several_readers_give_any_rows_to_the_bit(tmp_path, monkeypatch):
    monkeypatch.setattr(in_file, "PIECE", 64)
    monkeypatch.setattr(in_file, "_LARGEST", 100)
    taps = cached(tmp_path, n=24)
    values = tensors(24)
    for rows in (torch.arange(24), torch.tensor([5]), torch.randint(24, (31,)), torch.tensor([], dtype=torch.long)):
        for ours, theirs in zip(taps(rows), values, strict=True):
            assert torch.equal(ours, theirs[rows])


def test_a_batch_keeps_its_values_for_as_long_as_anything_refers_to_it(tmp_path):
    taps, values = cached(tmp_path, n=24), tensors(24)
    rows = [torch.arange(8 * i, 8 * i + 8) for i in range(3)]
    views = [taps(part)[0][2:] for part in rows]  # a view, as autograd or a metric keeps one
    for part, view in zip(rows, views, strict=True):
        assert torch.equal(view, values[0][part][2:])


def test_memory_is_used_again_once_a_batch_is_gone():
    buffers = Buffers()
    first = buffers.empty((4, 8), torch.float32)
    view, place = first[1], first.data_ptr()
    del first
    assert buffers.empty((4, 8), torch.float32).data_ptr() != place
    del view
    gc.collect()
    assert place in {buffers.empty((16, 4), torch.bfloat16).data_ptr() for _ in range(2)}


def test_the_next_batch_is_read_while_one_is_computed_with():
    reading = threading.Event()

    def batches():
        yield 0
        reading.set()
        yield 1

    ahead = ReadAhead(batches(), torch.device("cpu"))
    assert next(ahead) == 0
    assert reading.wait(10), "nobody has asked for the second"
    assert list(ahead) == [1]


@pytest.mark.parametrize("at", [0, 3])
def test_a_reader_that_dies_fails_with_the_reason_and_nobody_waits(at):
    def batches():
        yield from range(at)
        raise SystemExit("its disk is gone")

    with pytest.raises(UserError, match="its disk is gone"):
        list(ReadAhead(batches(), torch.device("cpu")))


def test_a_run_whose_reader_dies_fails_with_the_reason(cli, tmp_path, monkeypatch):
    read = InFile.read

    def failing(file, into, at):
        if threading.current_thread() is not threading.main_thread():
            raise OSError(5, "Input/output error")
        read(file, into, at)

    monkeypatch.setattr(read_ahead, "LEAST", 0)
    monkeypatch.setattr(InFile, "read", failing)
    status, _, err = cli(*RUN, f"output_dir={tmp_path}")
    assert status == 2
    (line,) = [line for line in err.splitlines() if "has died" in line]
    assert line.startswith("peftbench: taps: the thread that reads them ahead has died (OSError: [Errno 5]")
    assert record(tmp_path)["status"] == "failed"
    assert "has died" in record(tmp_path)["reason"]


@pytest.mark.slow
def test_a_run_that_reads_ahead_resumes_to_the_bit(tmp_path, monkeypatch):
    monkeypatch.setattr(read_ahead, "LEAST", 0)
    resumed, undisturbed = interrupted_and_undisturbed(tmp_path, monkeypatch, "method=losa", "taps=disk")
    assert resumed.costs["time"]["sessions"] == 2
    assert resumed.costs["taps"]["mode"] == "disk"
    assert same(learned(resumed), learned(undisturbed))
    assert resumed.metrics == undisturbed.metrics


def test_a_disk_that_gives_nothing_back_is_one_sentence(tmp_path, monkeypatch):
    taps = cached(tmp_path)

    def broken(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(InFile, "_read", broken)
    with pytest.raises(UserError, match=r"tap-00\.bin: cannot be read \(Input/output error\); give another taps\.dir"):
        taps(torch.arange(6))


def test_taps_held_on_a_device_are_those_of_the_file(tmp_path, monkeypatch):
    taps, values = cached(tmp_path, n=24), tensors(24)
    monkeypatch.setattr(kept, "_COPIED_AT_ONCE", 100)
    assert taps.put_on(torch.device("cpu"))
    rows = torch.randint(24, (7,))
    assert all(torch.equal(ours, theirs[rows]) for ours, theirs in zip(taps(rows), values, strict=True))
    assert taps.held_on == torch.device("cpu")
    assert taps.bytes == sum(v.nbytes for v in values)


def test_taps_that_do_not_fit_a_device_stay_where_they_are(tmp_path, monkeypatch):
    taps = cached(tmp_path)

    def full(*arguments, **options):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as patched:
        patched.setattr(torch, "empty", full)
        assert not taps.put_on(torch.device("cuda"))
    assert taps.held_on is None
    assert torch.equal(taps(torch.arange(6))[0], tensors()[0])


def hold_on_the_processor(monkeypatch, room: int) -> None:
    """Has the CPU stand in for a GPU that holds up to `room` bytes of taps."""
    from peftbench.training import tap_filling

    monkeypatch.setattr(tap_filling, "room_on", lambda device, most_gb: room)


def test_a_run_from_taps_that_the_device_holds_is_the_same_to_the_bit(cli, tmp_path, monkeypatch):
    assert cli(*RUN, f"output_dir={tmp_path / 'read'}")[0] == 0
    hold_on_the_processor(monkeypatch, 2**30)
    assert cli(*RUN, "force=true", f"output_dir={tmp_path / 'held'}")[0] == 0
    assert history(tmp_path / "held") == history(tmp_path / "read")
    ours, theirs = (record(tmp_path / n)["costs"]["taps"] for n in ("held", "read"))
    assert (ours["mode"], ours["held_on"]) == ("disk", "cpu")
    assert "held_on" not in theirs


def test_taps_that_fit_neither_gpu_nor_disk_nor_memory_are_computed_and_it_says_so(cli, tmp_path, monkeypatch):
    hold_on_the_processor(monkeypatch, 1000)
    status, _, err = cli(*RUN, "taps.max_gb=0.0001", "taps.memory_gb=0", f"output_dir={tmp_path}")
    assert status == 0
    assert "taps.max_gb=0.0001: these taps need" in err
    assert "taps=auto does without, since there is no room on cpu (taps.gpu_gb) or in memory (taps.memory_gb)" in err
    assert record(tmp_path)["costs"]["taps"]["mode"] == "off"


def test_auto_computes_where_that_is_measured_to_be_faster_than_reading(cli, tmp_path, cache, monkeypatch):
    from peftbench.taps import rates

    monkeypatch.setattr(rates, "LEAST", 0)
    small = [*RUN, "data.eval_batch_size=8"]
    assert cli(*small, f"output_dir={tmp_path / 'fast'}")[0] == 0
    measured = record(tmp_path / "fast")["costs"]["taps"]
    assert measured["mode"] == "disk"
    assert measured["rates"]["reading"] > measured["rates"]["computing"] > 0
    read = InFile.read

    def slowly(file, into, at):
        time.sleep(0.005)
        read(file, into, at)

    with monkeypatch.context() as patched:
        patched.setattr(InFile, "read", slowly)
        status, _, err = cli(*small, f"output_dir={tmp_path / 'slow'}")
    assert status == 0
    assert "taps=auto computes them in every step, and taps=disk reads them" in err
    taken = record(tmp_path / "slow")["costs"]["taps"]
    assert taken["mode"] == "off"
    assert taken["rates"]["reading"] < taken["rates"]["computing"]
    assert history(tmp_path / "slow") == history(tmp_path / "fast")
    assert len(entries(cache)) == 2


def test_reading_twice_as_many_rows_at_once_takes_the_rows_of_both(tmp_path):
    wide = torch.arange(64.0).view(8, 8)
    taps = taps_on_disk(tmp_path, {"what": "wide"}, 0, 2**30, lambda: iter([[wide]]), print)
    both = taps(torch.tensor([1, 2, 6, 6, 0]))
    assert torch.equal(both[0], wide[[1, 2, 6, 6, 0]])
