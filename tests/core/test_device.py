"""Choice of the device: names, availability, and the messages of devices that cannot be used."""

import pytest
import torch

from srcli.core.device import autocast_dtype, is_cpu, pick_device
from srcli.errors import ConfigError, SrcliError


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:x", "cpu:0", ""])
def test_an_unknown_device_is_rejected(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"There is no device '{name}'. Choose auto, cpu, cuda, cuda:N or mps"):
        is_cpu(name)


def test_cpu_is_always_available() -> None:
    assert is_cpu("cpu")
    assert pick_device("cpu").type == "cpu"


@pytest.mark.parametrize("name", ["cuda", "cuda:0"])
def test_an_unavailable_gpu_is_an_error_and_not_replaced(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SrcliError, match=rf"The device {name} is not available: .*no CUDA GPU. Use `device=cpu`"):
        pick_device(name)


def test_a_gpu_index_out_of_range_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert pick_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(SrcliError, match="The device cuda:2 is not available: the GPUs are 0 to 1"):
        pick_device("cuda:2")


def test_a_given_precision_is_used() -> None:
    cpu = torch.device("cpu")
    assert [autocast_dtype(name, cpu) for name in ("fp32", "bf16", "fp16")] == [torch.float32, torch.bfloat16, torch.float16]
