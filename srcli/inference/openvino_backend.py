"""A folded `Compact` as an OpenVINO graph, behind the seam that `srcli.upscaling` calls: arrays in, arrays out, no torch.

The graph is put together from the weights themselves, so that there is no second form of a model to ship or to convert to.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from queue import SimpleQueue
from threading import Lock
from typing import Any

import numpy as np

from srcli.config import SLOPE, CompactConfig
from srcli.errors import NonFiniteOutputError, SrcliError

# OpenVINO's tools for converting models send a message over the network as soon as they are imported. Nothing here needs
# them, and `openvino` does without them where they cannot be imported, and starts earlier.
_tools: dict[str, Any] = {} if "openvino" in sys.modules else {"openvino.tools.ovc": None}
sys.modules.update(_tools)
try:
    from openvino import Core, InferRequest, Model, Node
    from openvino import opset13 as ops
finally:
    for name in _tools:
        del sys.modules[name]

# Without the hint OpenVINO would take bfloat16 where the processor has instructions for it, which moves pixels by several
# grey levels. Kernels of past shapes are not kept: they come back in 5 ms, and with thousands of differently sized pictures
# they would fill the memory.
CONFIG = {"INFERENCE_PRECISION_HINT": "f32", "CPU_RUNTIME_CACHE_CAPACITY": 0}

LATENCY_CONFIG = {"PERFORMANCE_HINT": "LATENCY"}
"""All cores for one tile; which, and how many threads, is OpenVINO's own choice."""

MAX_STREAMS = min(2, os.cpu_count() or 1)
"""How many tiles share the cores where there are several at a time."""


class OpenVINOBackend:
    """Runs a folded compact generator on the CPU, in float32 or 8 bits, on all cores.

    A call that finds no other at work has all cores to itself. One that does has half of them: two tiles side by side keep
    them busier than one after the other, as all cores of a tile wait for the slowest, and for what only one can do.
    """

    def __init__(self, config: CompactConfig, weights: Mapping[str, np.ndarray], *, note: str = "") -> None:
        """weights: those of the folded generator by name; with `int8.channels` and `int8.ranges` among them (see
        `srcli.core.quantising`) it runs in 8 bits. note: what else to say of the device.

        Raises SrcliError where the weights do not fit the settings.
        """
        self.runs_on = f"cpu (OpenVINO, {'int8' if 'int8.ranges' in weights else 'fp32'}{note})"
        self.scale = config.scale
        self.halo = config.halo
        self.grid = 1
        self.bytes_per_pixel = config.bytes_per_pixel * (1 + MAX_STREAMS)  # requests keep what they took
        self.device_free_bytes = None
        self._core = Core()
        self._graph = compact_graph(config, weights)
        self._free: dict[int, SimpleQueue[InferRequest]] = {}  # requests that are not at work, by how many share the cores
        self.at_work = 0  # how many calls are
        self._lock = Lock()  # of these two

    def __call__(self, lr: np.ndarray) -> np.ndarray:
        """3 x H x W to 3 x sH x sW, float32, RGB in and around [0, 1].

        Raises MemoryError, and NonFiniteOutputError where the weights make numbers that are none.
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
                    self._free.pop(sharing, None)  # they would ask for as much again, whatever the picture
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
            sr: np.ndarray = request.infer([batch], share_inputs=True)[0][0]
        finally:
            free.put(request)
        return sr

    def _requests(self, sharing: int) -> SimpleQueue[InferRequest]:
        """New ones, as many as share the cores."""
        cores = LATENCY_CONFIG if sharing == 1 else {"NUM_STREAMS": sharing}
        compiled = self._core.compile_model(self._graph, "CPU", CONFIG | cores)
        requests: SimpleQueue[InferRequest] = SimpleQueue()
        for _ in range(sharing):
            requests.put(compiled.create_infer_request())
        return requests


def compact_graph(config: CompactConfig, weights: Mapping[str, np.ndarray]) -> Model:
    """What `srcli.core.generators.Compact` computes, for pictures of any size; in 8 bits where the weights say how.

    The bilinear enlargement is written as a convolution to the s x s places of each pixel: its sum with the tail is taken
    before the pixel shuffle, at a sixteenth of the cost for x4, and OpenVINO fuses it into the tail.

    In 8 bits the head stays in float32, as it takes in the picture itself and costs little. Every other convolution takes in
    activations rounded to 256 levels and has kernels rounded to 255, of which OpenVINO makes a convolution of integers.
    """
    inner = config.channels
    outer = 3 * config.scale**2
    sizes = {"head": (3, inner), **{f"body.{i}": (inner, inner) for i in range(config.blocks)}, "tail": (inner, outer)}
    shapes: dict[str, tuple[int, ...]]
    shapes = {f"{name}.weight": (outside, inside, 3, 3) for name, (inside, outside) in sizes.items()}
    shapes |= {f"{name}.bias": (outside,) for name, (_, outside) in sizes.items()}
    in_8_bits = any(name.startswith("int8.") for name in weights)
    if in_8_bits:
        shapes |= {"int8.channels": (config.blocks, inner), "int8.ranges": (config.blocks + 1, 2)}
    if {name: tensor.shape for name, tensor in weights.items()} != shapes:
        raise SrcliError("The model file is damaged: its weights do not fit its own settings. Get it again.")

    if in_8_bits:
        weights = _in_units(weights, config.blocks)

    def conv(x: Node, name: str, place: int | None = None) -> Node:
        """place: of the range of what it takes in; None for none."""
        kernels = weights[f"{name}.weight"]
        if in_8_bits and place is not None:
            ends = [np.float32(end) for end in weights["int8.ranges"][place]]
            x = ops.fake_quantize(x, *ends, *ends, 256)
            largest = np.maximum(np.abs(kernels).max(axis=(1, 2, 3), keepdims=True), 1e-12)
            kernels = ops.fake_quantize(ops.constant(kernels), -largest, largest, -largest, largest, 255)
        y = ops.convolution(x, kernels, [1, 1], [1, 1], [1, 1], [1, 1])
        return ops.add(y, weights[f"{name}.bias"].reshape(1, -1, 1, 1))

    def leaky_relu(x: Node) -> Node:
        return ops.prelu(x, np.array([SLOPE], np.float32))

    lr = ops.parameter([1, 3, -1, -1], np.float32, name="lr")
    shallow = leaky_relu(conv(lr, "head"))  # 1 x C x H x W
    deep = shallow
    for block in range(config.blocks):
        deep = leaky_relu(conv(deep, f"body.{block}", block))  # 1 x C x H x W
    detail = conv(ops.add(deep, shallow), "tail", config.blocks)  # 1 x 3 s^2 x H x W
    padded = ops.pad(lr, np.array([0, 0, 1, 1]), np.array([0, 0, 1, 1]), "edge")
    bilinear = ops.convolution(padded, bilinear_kernels(config.scale), [1, 1], [0, 0], [0, 0], [1, 1])  # 1 x 3 s^2 x H x W
    return Model([ops.depth_to_space(ops.add(detail, bilinear), "depth_first", config.scale)], [lr], "compact")


def _in_units(weights: Mapping[str, np.ndarray], blocks: int) -> dict[str, np.ndarray]:
    """The same function with the channels between convolutions in units of their own, which leaky ReLU leaves alone."""
    units = weights["int8.channels"]
    scaled = dict(weights)
    for name, before, after in (
        ("head", None, units[0]),
        *((f"body.{i}", units[i], units[(i + 1) % blocks]) for i in range(blocks)),
        ("tail", units[0], None),
    ):
        if before is not None:
            scaled[f"{name}.weight"] = scaled[f"{name}.weight"] * before[None, :, None, None]
        if after is not None:
            scaled[f"{name}.weight"] = scaled[f"{name}.weight"] / after[:, None, None, None]
            scaled[f"{name}.bias"] = scaled[f"{name}.bias"] / after
    return scaled


def bilinear_kernels(scale: int) -> np.ndarray:
    """Kernels, 3 s^2 x 3 x 3 x 3, that give the s x s pixels in the place of each one as bilinear enlargement does."""
    line = np.zeros((scale, 3), np.float32)  # for each place between two pixels, the shares of those before, here and after
    for place in range(scale):
        position = (place + 0.5) / scale + 0.5  # of its centre, from the centre of the pixel before
        left = int(position)
        line[place, left : left + 2] += (1 - position + left, position - left)
    kernels = np.zeros((3, scale, scale, 3, 3, 3), np.float32)
    for channel in range(3):
        kernels[channel, :, :, channel] = line[:, None, :, None] * line[None, :, None, :]
    return kernels.reshape(3 * scale**2, 3, 3, 3)
