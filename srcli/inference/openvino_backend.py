"""The backend that runs network bodies with OpenVINO on the CPU: arrays in, arrays out, without torch.

The graph is built from the weights in the model file, so there is no second form of a model to ship or to convert to.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Lock
from typing import Any

import numpy as np

from srcli.config import GeneratorConfig
from srcli.core.graph import BODIES, shapes_of
from srcli.errors import NonFiniteOutputError, SrcliError

# OpenVINO's model conversion tools send telemetry as soon as they are imported. They are not needed here, and `openvino`
# works without them, and imports faster.
_tools: dict[str, Any] = {} if "openvino" in sys.modules else {"openvino.tools.ovc": None}
sys.modules.update(_tools)
try:
    from openvino import Core, InferRequest, Model, Node
    from openvino import opset13 as ops
finally:
    for name in _tools:
        del sys.modules[name]

_LIMIT = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
THREADS = int(_LIMIT) if _LIMIT.isdecimal() else 0
"""How many cores to use, if that is limited, as for torch; 0 for all. The results are the same."""

# Without the hint, OpenVINO uses bfloat16 on processors that support it, which changes pixels by several gray levels.
# Compiled kernels are not cached: compiling takes 5 ms, and kernels for thousands of image sizes would fill the memory.
CONFIG = {"INFERENCE_PRECISION_HINT": "f32", "CPU_RUNTIME_CACHE_CAPACITY": 0}
# Fewer threads than cores are for several processes, which OpenVINO would pin to the same cores.
CONFIG |= {"INFERENCE_NUM_THREADS": THREADS, "ENABLE_CPU_PINNING": False} if THREADS else {}

LATENCY_CONFIG = {"PERFORMANCE_HINT": "LATENCY"}
"""All cores for one tile. OpenVINO chooses the number of threads."""

_OLD = np.finfo(np.float32).min  # no result of a network

MAX_STREAMS = min(2, THREADS or os.cpu_count() or 1)
"""How many tiles share the cores if several are processed at a time."""


class OpenVINOBackend:
    """Runs a network body on the CPU, in float32 or int8, on all cores.

    A single call uses all cores. Two concurrent calls use half of them each, which keeps the cores busier than one call after
    the other: within a call, all cores wait for the slowest, and for the parts that run on one core.
    """

    def __init__(self, config: GeneratorConfig, weights: Mapping[str, np.ndarray], *, note: str = "") -> None:
        """weights: of the fused generator by name. It runs in int8 if they include the `int8.*` tensors of
        `srcli.models.quantization`. note: appended to the description of the device.

        Raises SrcliError if the weights do not fit the config.
        """
        self.description = f"cpu (OpenVINO, {'int8' if any(name.startswith('int8.') for name in weights) else 'fp32'}{note})"
        self.scale = config.scale
        shapes = shapes_of(config)
        self.halo = shapes.halo
        self.tile_multiple = 1
        self.bytes_per_pixel = shapes.bytes_per_pixel * (1 + MAX_STREAMS)  # requests keep their memory
        self.device_free_bytes: int | None = None
        self._core = Core()
        self._graph = build_graph(config, weights)
        self._free: dict[int, SimpleQueue[InferRequest]] = {}  # idle requests, by how many share the cores
        self.at_work = 0  # calls in progress
        self._lock = Lock()  # guards the two above

    def __call__(self, lr: np.ndarray) -> np.ndarray:
        """3 x H x W to 3 x sH x sW, float32, RGB in and around [0, 1].

        Raises MemoryError, and NonFiniteOutputError if the output has NaN or infinite values.
        """
        batch = np.ascontiguousarray(lr, dtype=np.float32)[None]
        with self._lock:
            sharing = MAX_STREAMS if self.at_work else 1
            self.at_work += 1
        try:
            sr = self._infer(batch, sharing)
        except RuntimeError as error:
            if "allocate" in str(error) or "bad_alloc" in str(error):
                with self._lock:
                    self._free.pop(sharing, None)  # they would ask for as much again for any image
                raise MemoryError(str(error)) from None
            raise
        finally:
            with self._lock:
                self.at_work -= 1
        if not np.isfinite(sr.sum()):
            raise NonFiniteOutputError
        return sr

    def _infer(self, batch: np.ndarray, sharing: int) -> np.ndarray:
        with self._lock:
            if sharing not in self._free:
                self._free[sharing] = self._requests(sharing)
            free = self._free[sharing]
        request = free.get()
        try:
            _mark_as_old(request)
            sr: np.ndarray = request.infer([batch], share_inputs=True)[0][0]
        finally:
            free.put(request)
        if sr.shape != (3, self.scale * batch.shape[2], self.scale * batch.shape[3]) or sr.flat[0] == _OLD:
            # with one thread, OpenVINO 2026.4 returns the last result in the place of an error
            raise RuntimeError("OpenVINO could not allocate its memory.")
        return sr

    def _requests(self, sharing: int) -> SimpleQueue[InferRequest]:
        """New requests, as many as share the cores."""
        cores = LATENCY_CONFIG if sharing == 1 else {"NUM_STREAMS": sharing}
        compiled = self._core.compile_model(self._graph, "CPU", CONFIG | cores)
        requests: SimpleQueue[InferRequest] = SimpleQueue()
        for _ in range(sharing):
            requests.put(compiled.create_infer_request())
        return requests


def _mark_as_old(request: InferRequest) -> None:
    """Mark the result that the request has from the last time."""
    last = request.get_output_tensor().data
    if last.size:
        last.flat[0] = _OLD


@dataclass
class _Value:
    """A feature map in the graph, and the same rounded to 8 bits, once a convolution has asked for that."""

    node: Node
    rounded: Node | None = None


class OpenVINOOps:
    """Interprets a body as an OpenVINO graph, in float32, or in int8 if the weights have the tensors for that.

    In int8, each quantized convolution takes activations rounded to 256 levels and kernels rounded to 255, of which OpenVINO
    makes a convolution of integers. Channels are divided by the scales of their group, and kernels make up for that.
    """

    def __init__(self, config: GeneratorConfig, weights: Mapping[str, np.ndarray]) -> None:
        """Raises SrcliError if the weights do not fit the config."""
        self.weights = weights
        self.shapes = shapes_of(config)
        self.int8 = any(name.startswith("int8.") for name in weights)
        expected: dict[str, tuple[int, ...]] = {}
        for name, conv in self.shapes.convs.items():
            expected[f"{name}.weight"] = (conv.outputs, conv.inputs, conv.size, conv.size)
            expected[f"{name}.bias"] = (conv.outputs,)
            if self.int8 and conv.quantize:
                expected[f"int8.{name}.range"] = (2,)
        if self.int8:
            expected |= {f"int8.{group}.scale": (channels,) for group, channels in self.shapes.scale_groups.items()}
        if {name: tensor.shape for name, tensor in weights.items()} != expected:
            raise SrcliError("The model file is damaged: its weights do not fit its own settings. Get it again.")

    def conv(
        self,
        name: str,
        x: _Value,
        out: int,  # noqa: ARG002
        *,
        size: int = 3,
        quantize: bool = True,
        identity: bool = False,  # noqa: ARG002
    ) -> _Value:
        kernels, bias = self._scaled(name) if self.int8 else (self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])
        node = x.node
        if self.int8 and quantize:
            ends = [np.float32(end) for end in self.weights[f"int8.{name}.range"]]
            x.rounded = node = ops.fake_quantize(node, *ends, *ends, 256)
            largest = np.maximum(np.abs(kernels).max(axis=(1, 2, 3), keepdims=True), 1e-12)
            kernels = ops.fake_quantize(ops.constant(kernels), -largest, largest, -largest, largest, 255)
        padding = [size // 2] * 2
        y = ops.convolution(node, kernels, [1, 1], padding, padding, [1, 1])
        return _Value(ops.add(y, bias.reshape(1, -1, 1, 1)))

    def _scaled(self, conv: str) -> tuple[np.ndarray, np.ndarray]:
        """The kernels and the bias of a convolution for scaled inputs and outputs."""
        kernels, bias = self.weights[f"{conv}.weight"], self.weights[f"{conv}.bias"]
        for group, exponent in self.shapes.input_groups(conv).items():
            kernels = kernels * self.weights[f"int8.{group}.scale"][None, :, None, None] ** exponent
        group = self.shapes.group(conv)
        if group in self.shapes.scale_groups:
            scale = self.weights[f"int8.{group}.scale"]
            kernels, bias = kernels / scale[:, None, None, None], bias / scale
        return kernels, bias

    def act(self, x: _Value, slope: float) -> _Value:
        return _Value(ops.prelu(x.node, np.array([slope], np.float32)) if slope else ops.relu(x.node))

    def add(self, x: _Value, y: _Value, *, quantize: bool = False) -> _Value:
        return _Value(ops.add(x.rounded if quantize and x.rounded else x.node, y.node))

    def mul(self, x: _Value, y: _Value) -> _Value:
        return _Value(ops.multiply(x.node, y.node))

    def upsample(self, detail: _Value, lr: _Value, scale: int) -> _Value:
        # bilinear upsampling as a convolution to scale^2 places: the sum is taken before the pixel shuffle, at a sixteenth of
        # the cost for x4, and OpenVINO fuses it into the tail
        padded = ops.pad(lr.node, np.array([0, 0, 1, 1]), np.array([0, 0, 1, 1]), "edge")
        bilinear = ops.convolution(padded, bilinear_kernels(scale), [1, 1], [0, 0], [0, 0], [1, 1])  # 1 x 3 s^2 x H x W
        return _Value(ops.depth_to_space(ops.add(detail.node, bilinear), "depth_first", scale))


def build_graph(config: GeneratorConfig, weights: Mapping[str, np.ndarray]) -> Model:
    """The network as an OpenVINO graph for images of any size: lr, 1 x 3 x H x W, to sr, 1 x 3 x sH x sW.

    weights: of the fused generator by name, with the `int8.*` tensors of `srcli.models.quantization` for int8.
    """
    lr = ops.parameter([1, 3, -1, -1], np.float32, name="lr")
    sr = BODIES[type(config)](OpenVINOOps(config, weights), config, _Value(lr))
    return Model([sr.node], [lr], config.architecture)


def bilinear_kernels(scale: int) -> np.ndarray:
    """Kernels, 3 s^2 x 3 x 3 x 3, that compute the s x s pixels of bilinear upsampling for each input pixel."""
    line = np.zeros((scale, 3), np.float32)  # for each output position, the weights of the pixels before, at and after it
    for place in range(scale):
        position = (place + 0.5) / scale + 0.5  # of its center, from the center of the pixel before
        left = int(position)
        line[place, left : left + 2] += (1 - position + left, position - left)
    kernels = np.zeros((3, scale, scale, 3, 3, 3), np.float32)
    for channel in range(3):
        kernels[channel, :, :, channel] = line[:, None, :, None] * line[None, :, None, :]
    return kernels.reshape(3 * scale**2, 3, 3, 3)
