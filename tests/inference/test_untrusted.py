"""Model files of other projects that are made to take memory and time."""

import subprocess
from pathlib import Path

import pytest
import torch

from srcli.errors import SrcliError
from srcli.inference.third_party import import_spandrel
from srcli.inference.untrusted import check_loads

import_spandrel()
from spandrel.architectures.Compact.__arch.SRVGG import SRVGGNetCompact  # noqa: E402
from spandrel.architectures.ESRGAN.__arch.RRDB import RRDBNet  # noqa: E402


def esrgan() -> dict[str, torch.Tensor]:
    return RRDBNet(num_filters=8, num_blocks=1, scale=4).state_dict()


def with_a_gap() -> dict[str, torch.Tensor]:
    """A network whose second block has the number 1,000,000, so that as many are built."""
    weights = esrgan()
    block = next(name for name in weights if ".sub.0." in name)
    return weights | {block.replace(".sub.0.", ".sub.1000000."): weights[block]}


def with_a_huge_shape() -> dict[str, torch.Tensor]:
    """A convolution of 4 million channels, all of them the same number in the file."""
    weights = esrgan()
    return weights | {next(iter(weights)): torch.zeros(1).expand(4_000_000, 3, 3, 3)}


@pytest.mark.parametrize("weights", [with_a_gap, with_a_huge_shape])
def test_a_network_that_takes_too_much_is_rejected(weights: object, tmp_path: Path) -> None:
    path = tmp_path / "evil.pth"
    assert callable(weights)
    torch.save(weights(), path)
    assert path.stat().st_size < 2_000_000
    with pytest.raises(SrcliError, match=r"evil\.pth takes more than 1 seconds or 0\.5 GB to load"):
        check_loads(path, seconds=1, memory=2**29)


def test_a_model_that_loads_is_checked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "good.pth"
    torch.save(SRVGGNetCompact(num_feat=8, num_conv=2, upscale=2).state_dict(), path)
    check_loads(path, seconds=1)  # importing torch, which takes longer, does not count

    def again(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.setattr(subprocess, "run", again)
    check_loads(path)
    path.write_bytes(path.read_bytes() + b"0")
    with pytest.raises(AssertionError):
        check_loads(path)


def test_a_file_without_a_network_is_reported_as_such(tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    torch.save({"a": torch.zeros(3)}, path)
    with pytest.raises(SrcliError, match=r"other\.pth contains no network that srcli or spandrel supports"):
        check_loads(path)
