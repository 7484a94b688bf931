"""What runs a generator: the same pixels whatever does, no torch where it is not needed, and nothing that is no number."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import numpy as np
import pytest
import torch
from torch import nn

from srcli.config import CompactConfig
from srcli.core import device
from srcli.core.networks import Compact, Generator
from srcli.errors import NonFiniteOutputError, SrcliError
from srcli.inference.backend import load_model
from srcli.inference.openvino_backend import OpenVINOBackend, bilinear_kernels
from srcli.inference.torch_backend import TorchBackend
from srcli.inference.upscale import upscale
from srcli.io.image import Image
from srcli.models.checkpoint import load_generator
from srcli.models.registry import describe_model, read_weights, shipped_models
from tests.conftest import make_model

Pixels = Callable[..., np.ndarray]
CPU = torch.device("cpu")


def in_torch(generator: Generator) -> TorchBackend:
    return TorchBackend(generator, CPU, scale=generator.scale, halo=generator.halo)


def grey_levels(sr: np.ndarray) -> np.ndarray:
    return np.rint(sr.clip(0, 1) * 255)


@pytest.mark.parametrize("name", shipped_models())
def test_every_shipped_model_gives_the_same_pixels_without_torch(name: str, pixels: Pixels) -> None:
    quick, reference = load_model(name, "cpu"), in_torch(load_generator(name))
    assert isinstance(quick, OpenVINOBackend)
    assert (quick.scale, quick.halo) == (reference.scale, reference.halo)
    random = np.random.default_rng(0)
    for height, width in ((1, 1), (1, 9), (31, 47), (64, 64)):
        smooth = pixels(height, width).transpose(2, 0, 1).astype(np.float32) / 255
        for lr in (smooth, random.random((3, height, width), dtype=np.float32)):
            sr, expected = quick(lr), reference(lr)
            assert sr.shape == (3, height * quick.scale, width * quick.scale)
            assert sr.dtype == np.float32
            assert np.abs(sr - expected).max() < 1e-4
            assert np.abs(grey_levels(sr) - grey_levels(expected)).max() <= 1


def rounded(x: torch.Tensor, low: float, high: float, levels: int) -> torch.Tensor:
    step = (high - low) / (levels - 1)
    return ((x - low) / step).round().clamp(0, levels - 1) * step + low


@torch.inference_mode()
def in_8_bits(network: Compact, ranges: dict[str, torch.Tensor], lr: torch.Tensor) -> torch.Tensor:
    """What 8 bits should give, rounded layer by layer in float32."""
    units = [each.view(-1, 1, 1) for each in (*ranges["int8.channels"], ranges["int8.channels"][0])]

    def conv(x: torch.Tensor, layer: nn.Conv2d, place: int, after: torch.Tensor | None) -> torch.Tensor:
        kernels = layer.weight * units[place]  # out x in x 3 x 3 by in x 1 x 1
        kernels = kernels if after is None else kernels / after[..., None]
        ends = kernels.abs().amax(dim=(1, 2, 3)).tolist()
        kernels = torch.stack([rounded(one, -end, end, 255) for one, end in zip(kernels, ends, strict=True)])
        y = nn.functional.conv2d(rounded(x / units[place], *ranges["int8.ranges"][place].tolist(), 256), kernels, padding=1)
        y = y if after is None else y * after
        return y + layer.bias.view(-1, 1, 1)

    shallow = nn.functional.leaky_relu(network.head(lr), 0.1)
    deep = shallow
    for place, layer in enumerate(network.body):
        deep = nn.functional.leaky_relu(conv(deep, layer, place, units[place + 1]), 0.1)
    detail = nn.functional.pixel_shuffle(conv(deep + shallow, network.tail, len(network.body), None), network.scale)
    return detail + nn.functional.interpolate(lr, scale_factor=network.scale, mode="bilinear")


@pytest.mark.parametrize("name", ["compact-x2", "compact-x4-tiny"])
def test_8_bits_are_rounded_as_the_ranges_say(name: str, pixels: Pixels) -> None:
    lr = pixels(60, 50).transpose(2, 0, 1).astype(np.float32) / 255
    network = load_generator(name)
    assert isinstance(network, Compact)
    weights = read_weights(describe_model(f"{name}:int8"))
    ranges = {key: torch.from_numpy(weights[key]) for key in ("int8.channels", "int8.ranges")}
    expected = in_8_bits(network, ranges, torch.from_numpy(lr)[None])[0].numpy()
    backend = load_model(f"{name}:int8", "cpu")
    assert backend.runs_on == "cpu (OpenVINO, int8)"
    off = np.abs(backend(lr) - expected)
    from_full = np.abs(load_model(name, "cpu")(lr) - expected)
    assert off.mean() < from_full.mean() / 3  # what differs is where a sum in another order rounds to the next level
    assert off.max() < 5 / 255


def test_8_bits_give_the_same_whatever_the_tiles_are(pixels: Pixels) -> None:
    backend, picture = load_model("compact-x2:int8", "cpu"), Image(pixels(70, 90))
    whole, tiled = (upscale(backend, picture, tile=tile).pixels.astype(int) for tile in (0, 32))
    assert np.abs(whole - tiled).max() <= 2
    assert (whole != tiled).mean() < 0.01


def test_where_there_is_a_gpu_8_bits_are_left_out_and_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("srcli.inference.backend.takes_cpu", lambda _: False)
    backend = load_model("compact-x2:int8", "cpu")
    assert backend.runs_on == "cpu (torch, fp32; 8 bits are for CPUs)"


def test_a_model_that_is_not_prepared_for_8_bits_is_refused(model: Path) -> None:
    with pytest.raises(SrcliError, match=r"tiny was not prepared for 8 bits.* Leave out :int8"):
        load_model(f"{model}:int8", "cpu")


@pytest.mark.parametrize("run", ["cpu", "torch"])
def test_pictures_side_by_side_come_out_as_they_do_alone(run: str, model: Path, pixels: Pixels) -> None:
    backend = load_model(model, "cpu") if run == "cpu" else in_torch(load_generator(model))
    smalls = [pixels(20 + number, 90 - number).transpose(2, 0, 1).astype(np.float32) / 255 for number in range(24)]
    alone = [backend(lr) for lr in smalls]
    everyone = Barrier(6, timeout=60)

    def begin_together(lr: np.ndarray) -> np.ndarray:
        everyone.wait()
        return backend(lr)

    with ThreadPoolExecutor(6) as pool:
        for sr, expected in zip(pool.map(begin_together, smalls), alone, strict=True):
            np.testing.assert_allclose(sr, expected, atol=1e-6)


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="needs two cores")
def test_two_pictures_are_in_the_network_at_a_time(model: Path) -> None:
    backend = load_model(model, "cpu")
    assert isinstance(backend, OpenVINOBackend)
    large, small = np.zeros((3, 1500, 1500), np.float32), np.zeros((3, 8, 8), np.float32)
    ended: list[str] = []
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(lambda: (backend(large), ended.append("large")))
        while not backend.at_work:
            time.sleep(0.001)
        backend(small)
        ended.append("small")
        first.result()
    assert ended == ["small", "large"]


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_ones_own_model_gives_the_same_pixels_without_torch(scale: int, tmp_path: Path) -> None:
    path = make_model(tmp_path / "tiny.safetensors", scale=scale)
    lr = np.random.default_rng(0).random((3, 13, 22), dtype=np.float32)
    np.testing.assert_allclose(load_model(path, "cpu")(lr), in_torch(load_generator(path))(lr), atol=1e-5)


def test_arrays_of_any_layout_are_taken_and_none_is_changed_later(model: Path) -> None:
    backend = load_model(model, "cpu")
    first = np.random.default_rng(0).random((9, 12, 3), dtype=np.float32).transpose(2, 0, 1)
    before = backend(first)
    kept = before.copy()
    backend(1 - first)
    np.testing.assert_array_equal(before, kept)
    np.testing.assert_array_equal(backend(np.ascontiguousarray(first)), kept)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_the_bilinear_kernels_share_out_each_pixel(scale: int) -> None:
    np.testing.assert_allclose(bilinear_kernels(scale).sum(axis=(1, 2, 3)), 1, rtol=1e-6)


def test_enlarging_on_the_cpu_imports_no_torch_and_sends_nothing(photo: Path, model: Path) -> None:
    code = (
        "import sys\nfrom srcli.cli import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit as end:\n    print(end.code, sorted(sys.modules))"
    )
    words = [sys.executable, "-c", code, "upscale", str(photo), "-m", str(model), "--device", "cpu"]
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    code, _, modules = done.stdout.splitlines()[-1].partition(" ")
    assert code == "0"
    assert "'openvino'" in modules
    assert "'torch'" not in modules
    assert "telemetry" not in modules
    assert "http" not in modules


def test_auto_does_not_ask_torch_where_no_driver_is(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "has_gpu_driver", lambda: False)
    monkeypatch.setattr(device, "pick_device", lambda name: pytest.fail("torch was asked"))
    assert device.takes_cpu("auto")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_torch_cannot_use_is_said(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "has_gpu_driver", lambda: True)
    monkeypatch.setattr("srcli.inference.backend.has_gpu_driver", lambda: True)
    assert load_model(model, "auto").runs_on == "cpu (OpenVINO, fp32; there is a GPU's driver, but torch finds no GPU)"


def test_torch_takes_over_where_openvino_is_missing_and_says_why(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lr = np.random.default_rng(0).random((3, 9, 9), dtype=np.float32)
    quick = load_model(model, "cpu")(lr)
    monkeypatch.setitem(sys.modules, "srcli.inference.openvino_backend", None)
    backend = load_model(model, "cpu")
    assert backend.runs_on.startswith("cpu (torch, fp32; OpenVINO cannot be loaded: ")
    np.testing.assert_allclose(backend(lr), quick, atol=1e-5)


def test_weights_that_do_not_fit_the_settings_are_refused(model: Path) -> None:
    weights = read_weights(describe_model(model))
    with pytest.raises(SrcliError, match="its weights do not fit its own settings"):
        OpenVINOBackend(CompactConfig(scale=2, channels=8, blocks=3), weights)


def test_a_gpu_says_what_it_has_free_when_the_network_is_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[torch.device] = []
    monkeypatch.setattr(nn.Module, "to", lambda self, *_, **__: self)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: asked.append(device) or (5 * 2**30, 8 * 2**30))
    device = torch.device("cuda:1")
    backend = TorchBackend(Undefined(), device, scale=2, halo=1, dtype=torch.float32)
    assert (backend.device_free_bytes, asked) == (5 * 2**30, [device])
    assert TorchBackend(Undefined(), CPU, scale=2, halo=1).device_free_bytes is None


class Large(nn.Module):
    """Beyond what float16 can hold on the way, and back to one half."""

    def forward(self, lr: torch.Tensor) -> torch.Tensor:
        kernel = torch.full((3, 3, 1, 1), 1e4)
        huge = nn.functional.conv2d(nn.functional.conv2d(lr, kernel), kernel)
        return nn.functional.interpolate(huge.float() / huge.float().mean() / 2, scale_factor=2)


class Undefined(nn.Module):
    def forward(self, lr: torch.Tensor) -> torch.Tensor:
        return lr / 0


def test_what_leaves_half_precision_is_computed_again_in_full() -> None:
    backend = TorchBackend(Large(), CPU, scale=2, halo=0, dtype=torch.float16)
    assert backend.runs_on == "cpu (torch, fp16)"
    np.testing.assert_allclose(backend(np.ones((3, 4, 4), np.float32)), 0.5, rtol=1e-5)
    assert backend.runs_on == "cpu (torch, fp32)"


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_what_is_no_number_in_full_precision_either_is_an_error(dtype: torch.dtype) -> None:
    with pytest.raises(NonFiniteOutputError, match="infinite or undefined numbers"):
        TorchBackend(Undefined(), CPU, scale=1, halo=0, dtype=dtype)(np.zeros((3, 4, 4), np.float32))


def test_weights_that_are_no_numbers_are_an_error_without_torch(model: Path) -> None:
    description = describe_model(model)
    assert isinstance(description.config, CompactConfig)
    weights = read_weights(description)
    weights["body.0.bias"][0] = np.nan
    with pytest.raises(NonFiniteOutputError):
        OpenVINOBackend(description.config, weights)(np.zeros((3, 4, 4), np.float32))


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("MPS backend out of memory")],
)
def test_a_full_device_is_a_memory_error(error: RuntimeError) -> None:
    class Full(nn.Module):
        def forward(self, lr: torch.Tensor) -> torch.Tensor:
            raise error

    with pytest.raises(MemoryError):
        TorchBackend(Full(), CPU, scale=1, halo=0)(np.zeros((3, 4, 4), np.float32))


@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit on the address space")
@pytest.mark.parametrize("without", ["torch", "openvino"])
def test_too_little_memory_is_a_memory_error_and_smaller_pictures_still_work(without: str, model: Path) -> None:
    code = """
import resource, sys
import numpy as np
if sys.argv[2] == "openvino":
    sys.modules["srcli.inference.openvino_backend"] = None
from srcli.inference.backend import load_model
enlarger = load_model(sys.argv[1], "cpu")
small, large = np.zeros((3, 32, 32), np.float32), np.zeros((3, 2500, 2500), np.float32)
enlarger(small)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 200 * 2**20, -1))
try:
    enlarger(large)
except MemoryError:
    print(enlarger(small).shape)
"""
    done = subprocess.run([sys.executable, "-c", code, str(model), without], check=True, capture_output=True, text=True)
    assert done.stdout == "(3, 64, 64)\n"
