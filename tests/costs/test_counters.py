"""Energy counters, without any: a folder as Linux shows it, and modules as the libraries are."""

from __future__ import annotations

import sys
import threading
import types
from pathlib import Path

import pytest
import torch

from peftbench.costs import EnergyMeter, added_energy, rapl
from peftbench.costs.counters import NoCounter
from peftbench.costs.energy import counter_of

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


def zone(folder: Path, name: str, microjoules: int, most: int = 100_000_000) -> Path:
    """A zone as Linux shows it; returns the file of its counter."""
    folder.mkdir(parents=True)
    (folder / "name").write_text(f"{name}\n")
    (folder / "max_energy_range_uj").write_text(f"{most}\n")
    (folder / "energy_uj").write_text(f"{microjoules}\n")
    return folder / "energy_uj"


@pytest.fixture
def zones(tmp_path, monkeypatch):
    """The folder of zones, empty."""
    monkeypatch.setattr(rapl, "ZONES", tmp_path / "powercap")
    monkeypatch.setattr(sys, "platform", "linux")
    return tmp_path / "powercap"


def test_packages_are_summed_and_a_counter_that_begins_anew_goes_on(zones):
    first, second = (zone(zones / f"intel-rapl:{i}", f"package-{i}", 90_000_000) for i in (0, 1))
    core = zone(zones / "intel-rapl:0:0", "core", 5_000_000)
    memory = zone(zones / "intel-rapl:2", "dram", 5_000_000)
    counter = counter_of(CPU)
    assert (counter.measure, counter.joules()) == ("rapl", 0)
    assert counter.of.startswith("all 2 processor packages of the machine, with all else that ran there")
    for file in (core, memory):
        file.write_text("80000000")
    first.write_text("95000000")
    second.write_text("2500000")
    assert counter.joules() == 5 + 12.5
    second.write_text("4500000")
    assert counter.joules() == 5 + 14.5


def test_a_counter_that_begins_anew_twice_between_two_readings_is_looked_at_meanwhile(zones, monkeypatch):
    file = zone(zones / "intel-rapl:0", "package-0", 0)
    looked, read = threading.Condition(), rapl._number
    seen: list[int] = []

    def number(path: Path) -> int:
        value = read(path)
        with looked:
            if path == file:
                seen.append(value)
            looked.notify_all()
        return value

    monkeypatch.setattr(rapl, "POLL", 0.01)
    monkeypatch.setattr(rapl, "_number", number)
    counter = counter_of(CPU)
    for value in (60_000_000, 20_000_000, 10_000_000):
        part = file.with_suffix(".part")
        part.write_text(str(value))
        part.replace(file)
        with looked:
            assert looked.wait_for(lambda wanted=value: wanted in seen, timeout=30)
    assert counter.joules() == 60 + 60 + 90


@pytest.mark.parametrize(
    ("made", "why"),
    [
        (None, "the system shows no energy counter of its processor"),
        ("folder", "intel-rapl:0/energy_uj cannot be read (Is a directory)"),
        ("words", "intel-rapl:0/energy_uj cannot be read (it holds no number)"),
    ],
)
def test_without_a_counter_the_reason_is_told_and_watts_give_an_estimate(zones, made, why):
    if made:
        file = zone(zones / "intel-rapl:0", "package-0", 0)
        file.write_text("many")
        if made == "folder":
            file.unlink()
            file.mkdir()
    meter = EnergyMeter()
    meter.open(CPU)
    meter.begin()
    assert meter.end() == 0
    seconds = {"train": 10.0, "test": 2.0}
    absent = meter.costs(seconds, watts=None)
    assert list(absent) == ["why_not"]
    assert why in absent["why_not"]
    estimate = meter.costs(seconds, watts=65)
    assert {key: estimate[key] for key in ("train", "test", "measure")} == {
        "train": 650.0,
        "test": 130.0,
        "measure": "estimate",
    }
    assert (estimate["of"], estimate["why_not"]) == ("costs.watts=65 times seconds", absent["why_not"])


def test_a_run_that_goes_on_elsewhere_has_no_sum_of_two_measures(zones):
    zone(zones / "intel-rapl:0", "package-0", 0)
    same, other, none = EnergyMeter(), EnergyMeter(), EnergyMeter()
    same.take_up({"measure": "rapl", "train": 5.0})
    other.take_up({"measure": "nvml", "train": 5.0})
    none.take_up({})
    for meter in (same, other, none):
        meter.open(CPU)
    seconds = {"train": 1.0, "test": None}
    assert same.costs(seconds, None)["train"] == 5.0
    assert same.costs(seconds, None)["test"] is None, "there was no test"
    for meter in (other, none):
        assert meter.costs(seconds, None) == {
            "why_not": "an earlier session of this run measured its energy in another way, or not at all"
        }


def test_processes_are_summed_and_a_machine_is_counted_once(zones):
    file = zone(zones / "intel-rapl:0", "package-0", 0)
    meters = [EnergyMeter(), EnergyMeter()]
    for local, meter in enumerate(meters):
        meter.open(CPU, local)
        meter.begin()
    file.write_text("3000000")
    for meter in meters:
        meter.spent["train"] = meter.end()
    assert [meter.spent["train"] for meter in meters] == [3.0, 0.0]
    sums = meters[0].costs({"train": 1.0}, None, over=lambda values: 2 * values, processes=2)
    assert (sums["train"], sums["of"].rpartition("; ")[2]) == (6.0, "summed over 2 processes")
    lacking = meters[0].costs({"train": 1.0}, None, over=lambda values: values + torch.tensor([0, 0, 1]), processes=2)
    assert lacking == {"why_not": "another process of the run measured nothing"}


class NvmlError(Exception):
    pass


@pytest.fixture
def nvml(monkeypatch):
    """A module as nvidia-ml-py is, with one GPU, whose counter is `millijoules`."""
    module = types.ModuleType("pynvml")
    module.millijoules, module.NVMLError, module.nvmlInit = 5000, NvmlError, lambda: None

    def by_uuid(uuid):
        if uuid != "GPU-12ab":
            raise NvmlError("Not Found")
        return "handle"

    module.nvmlDeviceGetHandleByUUID = by_uuid
    module.nvmlDeviceGetTotalEnergyConsumption = lambda handle: {"handle": module.millijoules}[handle]
    monkeypatch.setitem(sys.modules, "pynvml", module)
    about = types.SimpleNamespace(name="NVIDIA X", uuid="12ab")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: about)
    monkeypatch.setattr(torch.version, "hip", None)
    module.about = about
    return module


def test_a_gpu_is_found_by_its_uuid_and_measured_as_a_whole(nvml):
    counter = counter_of(GPU)
    nvml.millijoules = 7500
    assert (counter.measure, counter.joules()) == ("nvml", 2.5)
    assert counter.of == "the whole GPU (NVIDIA X), with all else that ran on it; not the processor"

    def refuse(handle):
        raise NvmlError("Not Supported")

    nvml.nvmlDeviceGetTotalEnergyConsumption = refuse
    with pytest.raises(NoCounter, match=r"tells no energy of this GPU \(Not Supported\)"):
        counter.joules()
    nvml.about.uuid = "another"
    with pytest.raises(NoCounter, match="does not find the GPU NVIDIA X"):
        counter_of(GPU)


@pytest.mark.parametrize(
    ("module", "device", "library"),
    [("pynvml", "cuda:0", "nvidia-ml-py"), ("zeus_apple_silicon", "mps", "zeus-apple-silicon")],
)
def test_a_library_that_is_not_there_is_named_with_its_extra(monkeypatch, module, device, library):
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr(torch.version, "hip", None)
    with pytest.raises(NoCounter) as reason:
        counter_of(torch.device(device))
    assert str(reason.value) == f"the library {library} is not there; pip install 'peftbench[energy]'"


def test_a_chip_of_apple_is_measured_as_far_as_it_tells(monkeypatch):
    told = types.SimpleNamespace(cpu_total_mj=1000, gpu_mj=500, gpu_sram_mj=None, ane_mj=0, dram_mj=100)
    module = types.ModuleType("zeus_apple_silicon")
    module.AppleEnergyMonitor = lambda: types.SimpleNamespace(get_cumulative_energy=lambda: told)
    monkeypatch.setitem(sys.modules, "zeus_apple_silicon", module)
    counter = counter_of(torch.device("mps"))
    told.cpu_total_mj, told.dram_mj = 4000, 200
    assert (counter.measure, counter.joules()) == ("apple", 3.1)


def test_two_phases_are_summed_where_both_were_measured_alike():
    first, then = {"train": 2.0, "test": None, "measure": "rapl"}, {"train": 3.0, "test": 1.0, "measure": "rapl"}
    assert added_energy(first, then) == {"train": 5.0, "test": 1.0, "measure": "rapl"}
    for other in (None, {"why_not": "no counter"}, {**first, "measure": "nvml"}):
        assert list(added_energy(other, then)) == ["why_not"]
    assert added_energy(first, {"why_not": "no counter"}) == {"why_not": "no counter"}
