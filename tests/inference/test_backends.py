"""Backends: equal output from all of them, no torch if it is not needed, and errors for NaN and lack of memory."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from srcli.config import CompactConfig, GeneratorConfig, ResidualConfig
from srcli.core import device
from srcli.core.graph import shapes_of
from srcli.core.networks import BodyGenerator, Generator, TorchOps, build_generator
from srcli.errors import NonFiniteOutputError, SrcliError
from srcli.inference.backend import load_model
from srcli.inference.openvino_backend import CONFIG, OpenVINOBackend, bilinear_kernels
from srcli.inference.torch_backend import TorchBackend
from srcli.inference.upscale import upscale
from srcli.io.image import Image
from srcli.models.checkpoint import load_generator, save_model
from srcli.models.quantization import fake_quantize
from srcli.models.registry import describe_model, read_weights, shipped_models
from tests.conftest import make_model

Pixels = Callable[..., np.ndarray]
CPU = torch.device("cpu")


def in_torch(generator: Generator) -> TorchBackend:
    return TorchBackend(generator, CPU, scale=generator.scale, halo=generator.halo)


def gray_levels(sr: np.ndarray) -> np.ndarray:
    return np.rint(sr.clip(0, 1) * 255)


@pytest.mark.parametrize("name", shipped_models())
def test_openvino_gives_the_same_pixels_as_torch_for_every_shipped_model(name: str, pixels: Pixels) -> None:
    openvino, reference = load_model(name, "cpu"), in_torch(load_generator(name))
    assert isinstance(openvino, OpenVINOBackend)
    assert (openvino.scale, openvino.halo) == (reference.scale, reference.halo)
    random = np.random.default_rng(0)
    for height, width in ((1, 1), (1, 9), (31, 47), (64, 64)):
        smooth = pixels(height, width).transpose(2, 0, 1).astype(np.float32) / 255
        for lr in (smooth, random.random((3, height, width), dtype=np.float32)):
            sr, expected = openvino(lr), reference(lr)
            assert sr.shape == (3, height * openvino.scale, width * openvino.scale)
            assert sr.dtype == np.float32
            assert np.abs(sr - expected).max() < 1e-4
            assert np.abs(gray_levels(sr) - gray_levels(expected)).max() <= 1


def test_fewer_threads_give_the_same_bits(pixels: Pixels, monkeypatch: pytest.MonkeyPatch) -> None:
    lr = pixels(64, 64).transpose(2, 0, 1).astype(np.float32) / 255
    for name in ("tiny-x4", "tiny-x4:int8"):
        results = []
        for threads in (0, 1):
            monkeypatch.setitem(CONFIG, "INFERENCE_NUM_THREADS", threads)
            results.append(load_model(name, "cpu")(lr))
        assert np.array_equal(*results)


class Int8Reference(TorchOps):
    """What int8 inference should compute, with the rounding done in float32 layer by layer."""

    def __init__(self, generator: BodyGenerator, weights: dict[str, np.ndarray]) -> None:
        super().__init__(generator)
        self.weights = {name: torch.from_numpy(weight) for name, weight in weights.items()}
        self.shapes = shapes_of(generator.config)
        self.rounded: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}  # by identity; the key is kept, too, so that it stays

    def scale(self, groups: dict[str, int]) -> torch.Tensor:
        """C x 1 x 1, or 1."""
        factors = [self.weights[f"int8.{group}.scale"] ** exponent for group, exponent in groups.items()]
        return torch.stack(factors).prod(dim=0).view(-1, 1, 1) if factors else torch.ones(1, 1, 1)

    def conv(
        self, name: str, x: torch.Tensor, out: int, *, size: int = 3, quantize: bool = True, identity: bool = False
    ) -> torch.Tensor:
        kernels, bias = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        if quantize:
            group = self.shapes.group(name)
            before = self.scale(self.shapes.input_groups(name))
            after = self.scale({group: 1} if group in self.shapes.scale_groups else {})[..., None]
            self.rounded[id(x)] = x, fake_quantize(x / before, *self.weights[f"int8.{name}.range"]) * before
            scaled = kernels * before / after
            largest = scaled.abs().amax(dim=(1, 2, 3), keepdim=True)
            kernels = fake_quantize(scaled, -largest, largest, levels=254) * after / before
            x = self.rounded[id(x)][1]
        return nn.functional.conv2d(x, kernels, bias, padding=size // 2)

    def add(self, x: torch.Tensor, y: torch.Tensor, *, quantize: bool = False) -> torch.Tensor:
        return (self.rounded[id(x)][1] if quantize and id(x) in self.rounded else x) + y


def calibrated(path: Path, config: GeneratorConfig, lr: np.ndarray) -> Path:
    """A model file of a random network that is calibrated on one image, 3 x H x W."""
    torch.manual_seed(0)
    generator = build_generator(config)
    nn.init.normal_(generator.tail.weight, std=0.02)
    save_model(path, generator, config, {}, torch.from_numpy(lr)[None])
    return path


@pytest.mark.parametrize(
    "model",
    [
        "tiny-x2",
        "tiny-x4",
        ResidualConfig(scale=3, channels=16, blocks=3),
        ResidualConfig(scale=2, channels=16, blocks=2, slope=0.1),
    ],
    ids=str,
)
def test_int8_rounds_as_the_calibration_says(model: str | GeneratorConfig, tmp_path: Path, pixels: Pixels) -> None:
    lr = pixels(60, 50).transpose(2, 0, 1).astype(np.float32) / 255
    name = model if isinstance(model, str) else str(calibrated(tmp_path / "model.safetensors", model, lr))
    network = load_generator(name)
    assert isinstance(network, BodyGenerator)
    with torch.inference_mode():
        reference = Int8Reference(network, read_weights(describe_model(f"{name}:int8")))
        expected = network.interpret(reference, torch.from_numpy(lr)[None])[0].numpy()
    backend = load_model(f"{name}:int8", "cpu")
    assert backend.description == "cpu (OpenVINO, int8)"
    difference = np.abs(backend(lr) - expected)
    rounding = np.abs(load_model(name, "cpu")(lr) - expected)
    assert difference.mean() < rounding.mean() / 3  # sums in another order may round to the next level
    assert difference.max() < 5 / 255


def test_int8_gives_the_same_in_tiles_and_in_one_piece(pixels: Pixels) -> None:
    backend, image = load_model("base-x2:int8", "cpu"), Image(pixels(70, 90))
    whole, tiled = (upscale(backend, image, tile=tile).pixels.astype(int) for tile in (0, 32))
    assert np.abs(whole - tiled).max() <= 2
    assert (whole != tiled).mean() < 0.01


def test_int8_is_reported_as_unsupported_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("srcli.inference.backend.is_cpu", lambda _: False)
    backend = load_model("base-x2:int8", "cpu")
    assert backend.description == "cpu (torch, fp32; int8 runs on CPUs only)"


def test_a_model_without_calibration_data_is_rejected_for_int8(model: Path) -> None:
    with pytest.raises(SrcliError, match=r"tiny has no int8 calibration data.* leave out :int8"):
        load_model(f"{model}:int8", "cpu")


@pytest.mark.parametrize("run", ["cpu", "torch"])
def test_concurrent_calls_give_the_same_as_single_ones(run: str, model: Path, pixels: Pixels) -> None:
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
def test_two_images_are_processed_at_a_time(model: Path) -> None:
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
def test_openvino_gives_the_same_pixels_as_torch_for_a_new_model(scale: int, tmp_path: Path) -> None:
    path = make_model(tmp_path / "tiny.safetensors", scale=scale)
    lr = np.random.default_rng(0).random((3, 13, 22), dtype=np.float32)
    np.testing.assert_allclose(load_model(path, "cpu")(lr), in_torch(load_generator(path))(lr), atol=1e-5)


def test_any_memory_layout_is_accepted_and_results_are_not_overwritten_later(model: Path) -> None:
    backend = load_model(model, "cpu")
    first = np.random.default_rng(0).random((9, 12, 3), dtype=np.float32).transpose(2, 0, 1)
    before = backend(first)
    kept = before.copy()
    backend(1 - first)
    np.testing.assert_array_equal(before, kept)
    np.testing.assert_array_equal(backend(np.ascontiguousarray(first)), kept)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_the_bilinear_kernels_sum_to_one(scale: int) -> None:
    np.testing.assert_allclose(bilinear_kernels(scale).sum(axis=(1, 2, 3)), 1, rtol=1e-6)


def test_upscaling_on_the_cpu_imports_no_torch_and_sends_nothing(photo: Path, model: Path) -> None:
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


def test_auto_does_not_import_torch_without_a_gpu_driver(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "has_gpu_driver", lambda: False)
    monkeypatch.setattr(device, "pick_device", lambda name: pytest.fail("torch was asked"))
    assert device.is_cpu("auto")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_torch_cannot_use_is_reported(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "has_gpu_driver", lambda: True)
    monkeypatch.setattr("srcli.inference.backend.has_gpu_driver", lambda: True)
    assert load_model(model, "auto").description == "cpu (OpenVINO, fp32; a GPU driver is installed, but torch finds no GPU)"


def test_torch_is_used_if_openvino_cannot_be_imported_and_the_reason_is_reported(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lr = np.random.default_rng(0).random((3, 9, 9), dtype=np.float32)
    expected = load_model(model, "cpu")(lr)
    monkeypatch.setitem(sys.modules, "srcli.inference.openvino_backend", None)
    backend = load_model(model, "cpu")
    assert backend.description.startswith("cpu (torch, fp32; OpenVINO cannot be loaded: ")
    np.testing.assert_allclose(backend(lr), expected, atol=1e-5)


def test_weights_that_do_not_fit_the_config_are_rejected(model: Path) -> None:
    weights = read_weights(describe_model(model))
    with pytest.raises(SrcliError, match="its weights do not fit its own settings"):
        OpenVINOBackend(CompactConfig(scale=2, channels=8, blocks=3), weights)


def test_free_gpu_memory_is_measured_after_the_network_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[torch.device] = []
    monkeypatch.setattr(nn.Module, "to", lambda self, *_, **__: self)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: asked.append(device) or (5 * 2**30, 8 * 2**30))
    device = torch.device("cuda:1")
    backend = TorchBackend(Undefined(), device, scale=2, halo=1, dtype=torch.float32)
    assert (backend.device_free_bytes, asked) == (5 * 2**30, [device])
    assert TorchBackend(Undefined(), CPU, scale=2, halo=1).device_free_bytes is None


class Large(nn.Module):
    """Overflows float16 on the way, and ends at one half."""

    def forward(self, lr: torch.Tensor) -> torch.Tensor:
        kernel = torch.full((3, 3, 1, 1), 1e4)
        huge = nn.functional.conv2d(nn.functional.conv2d(lr, kernel), kernel)
        return nn.functional.interpolate(huge.float() / huge.float().mean() / 2, scale_factor=2)


class Undefined(nn.Module):
    def forward(self, lr: torch.Tensor) -> torch.Tensor:
        return lr / 0


def test_output_that_overflows_float16_is_computed_again_in_float32() -> None:
    backend = TorchBackend(Large(), CPU, scale=2, halo=0, dtype=torch.float16)
    assert backend.description == "cpu (torch, fp16)"
    np.testing.assert_allclose(backend(np.ones((3, 4, 4), np.float32)), 0.5, rtol=1e-5)
    assert backend.description == "cpu (torch, fp32)"


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_nan_in_float32_is_an_error(dtype: torch.dtype) -> None:
    with pytest.raises(NonFiniteOutputError, match="NaN or infinite"):
        TorchBackend(Undefined(), CPU, scale=1, halo=0, dtype=dtype)(np.zeros((3, 4, 4), np.float32))


def test_nan_weights_are_an_error_in_openvino(model: Path) -> None:
    spec = describe_model(model)
    weights = read_weights(spec)
    weights["body.0.bias"][0] = np.nan
    with pytest.raises(NonFiniteOutputError):
        OpenVINOBackend(spec.config, weights)(np.zeros((3, 4, 4), np.float32))


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


def test_the_result_of_the_last_image_in_the_place_of_an_error_is_a_memory_error(model: Path) -> None:
    backend = load_model(str(model), "cpu")
    lr = np.full((3, 32, 32), 0.5, np.float32)
    last = backend(lr)[None].copy()
    [requests] = backend._free.values()
    requests.get()
    requests.put(SimpleNamespace(get_output_tensor=lambda: SimpleNamespace(data=last), infer=lambda *_, **__: [last.copy()]))
    with pytest.raises(MemoryError, match="could not allocate"):
        backend(lr)


@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit on the address space")
@pytest.mark.parametrize("without", ["torch", "openvino"])
def test_too_little_memory_is_a_memory_error_and_smaller_images_still_work(without: str, model: Path) -> None:
    code = """
import resource, sys
import numpy as np
if sys.argv[2] == "openvino":
    sys.modules["srcli.inference.openvino_backend"] = None
from srcli.inference.backend import load_model
backend = load_model(sys.argv[1], "cpu")
small, large = np.zeros((3, 32, 32), np.float32), np.zeros((3, 2500, 2500), np.float32)
backend(small)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 200 * 2**20, -1))
try:
    backend(large)
except MemoryError:
    print(backend(small).shape)
"""
    done = subprocess.run([sys.executable, "-c", code, str(model), without], check=True, capture_output=True, text=True)
    assert done.stdout == "(3, 64, 64)\n"


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity") or os.cpu_count() == 1, reason="needs Linux and two cores")
def test_threads_of_a_limited_process_may_run_on_every_core() -> None:
    """Several processes with one thread each would otherwise share one core."""
    code = """
import contextlib, os, threading, numpy as np
from srcli.inference.backend import load_model
backend, seen = load_model("base-x4", "cpu"), set()
started = threading.Event()
def run():
    for _ in range(4):
        backend(np.zeros((3, 128, 128), np.float32))
        started.set()  # OpenVINO pins threads for a moment when it starts
work = threading.Thread(target=run)
work.start()
started.wait()
while work.is_alive():
    for thread in os.listdir("/proc/self/task"):
        with contextlib.suppress(ProcessLookupError):  # it has ended
            seen.add(frozenset(os.sched_getaffinity(int(thread))))
    work.join(0.01)
print(seen == {frozenset(os.sched_getaffinity(0))})
"""
    limited = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=limited, capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"
