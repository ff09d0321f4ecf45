"""What a GPU can do and whether torch runs on it, by torch's answers of several machines."""

import contextlib

import pytest
import torch

from peftbench.common.gpus import architectures, gpu_has_bf16, runs_on, torch_build
from peftbench.common.tf32 import tf32

WHEEL = "sm_75 sm_80 sm_86 sm_90 sm_100 sm_120 compute_120"


@pytest.fixture
def machine(monkeypatch):
    """`machine(capability, flags)`: a GPU, and the kinds that torch was built for."""

    def has(capability, flags=WHEEL):
        monkeypatch.setattr(torch._C, "_cuda_getArchFlags", lambda: flags, raising=False)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: capability)

    return has


@pytest.mark.parametrize(
    ("capability", "flags", "runs"),
    [
        ((7, 5), WHEEL, True),
        ((7, 0), WHEEL, False),  # V100
        ((3, 7), WHEEL, False),
        ((8, 9), WHEEL, True),  # by the code of sm_86
        ((12, 1), WHEEL, True),
        ((13, 0), WHEEL, True),  # translated by the driver
        ((13, 0), "sm_90 sm_120", False),
        ((9, 0), "sm_80 sm_90a", True),
        ((10, 0), "sm_90a", False),
        ((9, 1), "sm_90a", False),
        ((10, 3), "sm_100f", True),
        ((8, 0), "", True),  # a build that does not say
    ],
)
def test_torch_runs_on_its_own_generations_and_on_later_ones_that_the_driver_translates_for(
    machine, capability, flags, runs
):
    machine(capability, flags)
    assert runs_on(0) is runs


def test_bf16_is_there_from_ampere_on(machine):
    for capability, has in (((7, 5), False), ((7, 0), False), ((8, 0), True), ((9, 0), True)):
        machine(capability)
        assert gpu_has_bf16(0) is has


def test_the_build_is_told_where_there_is_no_gpu(machine, monkeypatch):
    machine((7, 5), "sm_75 sm_90")
    assert architectures() == ("sm_75", "sm_90")
    assert torch_build().startswith(f"torch {torch.__version__}, built for sm_75, sm_90 (CUDA ")
    monkeypatch.delattr(torch._C, "_cuda_getArchFlags")
    assert torch_build() == f"torch {torch.__version__}, built for no CUDA or ROCm GPU"


class Switch:
    def __init__(self, **values):
        self.__dict__.update(values)


class Unreadable(Switch):
    """What `allow_tf32` is once `fp32_precision` was used."""

    @property
    def allow_tf32(self):
        raise RuntimeError("a mix of the legacy and new APIs")


@pytest.mark.parametrize("on", [True, False])
def test_tf32_sets_products_and_convolutions_alike_and_puts_both_back(on, monkeypatch):
    matrices, convolutions = Switch(allow_tf32=False), Switch(allow_tf32=True)
    monkeypatch.setattr(torch.backends.cuda, "matmul", matrices)
    monkeypatch.setattr(torch.backends, "cudnn", convolutions)
    with contextlib.suppress(KeyError), tf32(on):
        assert (matrices.allow_tf32, convolutions.allow_tf32) == (on, on)
        raise KeyError
    assert (matrices.__dict__, convolutions.__dict__) == ({"allow_tf32": False}, {"allow_tf32": True})


@pytest.mark.parametrize("on", [True, False])
def test_where_the_new_interface_is_in_use_the_old_one_is_left_alone(on, monkeypatch):
    matrices = Unreadable(fp32_precision="tf32")
    convolutions = Switch(allow_tf32=True, conv=Switch(fp32_precision="none"), rnn=Switch(fp32_precision="tf32"))
    monkeypatch.setattr(torch.backends.cuda, "matmul", matrices)
    monkeypatch.setattr(torch.backends, "cudnn", convolutions)
    with tf32(on):
        told = {s.fp32_precision for s in (matrices, convolutions.conv, convolutions.rnn)}
        assert told == {"tf32" if on else "ieee"}
        assert convolutions.allow_tf32 is True
    assert (matrices.fp32_precision, convolutions.conv.fp32_precision) == ("tf32", "none")


@pytest.mark.parametrize("on", [True, False])
def test_the_installed_torch_can_be_read_through_each_interface_inside(on):
    with tf32(on):
        assert torch.backends.cuda.matmul.allow_tf32 is torch.backends.cudnn.allow_tf32 is on
        assert torch.get_float32_matmul_precision() == ("high" if on else "highest")
        if hasattr(torch.backends.cuda.matmul, "fp32_precision"):
            assert torch.backends.cuda.matmul.fp32_precision == ("tf32" if on else "ieee")
    assert torch.backends.cudnn.allow_tf32 is True
    assert torch.backends.cuda.matmul.allow_tf32 is False


def test_a_precision_that_somebody_chose_for_the_cpu_too_is_put_back_whole(monkeypatch):
    said = []
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "medium")
    monkeypatch.setattr(torch, "set_float32_matmul_precision", said.append)
    monkeypatch.setattr(torch.backends.cuda, "matmul", matrices := Switch(allow_tf32=True))
    with tf32(True):
        assert said == []
    with tf32(False):
        assert said == ["highest"]
    assert said == ["highest", "medium"]
    assert matrices.allow_tf32 is True
