"""One update of the weights, computed on the device without waiting for it, and its capture as a CUDA graph.

A GPU computes a step of a small network faster than Python launches its operations. `Update` therefore reads nothing back:
whether the loss is finite is a tensor, and so are the learning rate and everything else that changes from step to step.
`CapturedUpdate` records all operations once and repeats them with one launch.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from srcli.config import VGG_CROP_OFFSETS, TrainConfig
from srcli.core.losses import WeightedLoss
from srcli.core.networks import Generator
from srcli.training.adversary import Adversary
from srcli.training.distributed import DistributedContext
from srcli.training.optim import apply

WARM_UP = 3
"""Steps that run operation by operation before one is captured, so that all memory and all kernels exist."""


@dataclass
class Parts:
    """What an update works on."""

    config: TrainConfig
    device: torch.device
    world: DistributedContext
    generator: Generator
    average: Generator
    model: nn.Module
    """The generator as a step calls it: distributed over processes, compiled."""
    loss: WeightedLoss
    optimizer: torch.optim.Optimizer
    adversary: Adversary | None
    scaler: torch.amp.GradScaler
    autocast: torch.dtype


def numbers_of_step(config: TrainConfig, step: int, lr: float) -> list[float]:
    """What changes from step to step: learning rates, the share of the new weights in the average, and VGG's offsets.

    VGG's poolings and the generator's pixel shuffle both repeat every few pixels. At a fixed offset, the gradient repeats with
    them, and the generator learns a grid that matches the poolings. At random offsets it averages out.
    """
    # a smaller decay at the start removes the initial weights from the average of a short run
    decay = min(config.ema, (step + 1) / (step + 10))
    random = np.random.default_rng([config.seed, step, VGG_CROP_OFFSETS])
    offsets = [float(random.integers(VGG_CROP_OFFSETS)) for _ in range(2)]
    return [lr, config.adversarial_lr * lr / config.lr, 1 - decay, *offsets]


class StepRunner(Protocol):
    """Runs steps. Returns total, terms, and 1 or 0 for whether the step was skipped, as one tensor on the device.

    numbers: of `numbers_of_step`. meanwhile: called when lr and hr are no longer needed.
    """

    def __call__(self, lr: Tensor, hr: Tensor, numbers: Tensor, meanwhile: Callable[[], None]) -> Tensor: ...


class Update:
    """Runs each operation of a step by itself."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts

    def __call__(self, lr: Tensor, hr: Tensor, numbers: Tensor, meanwhile: Callable[[], None] = lambda: None) -> Tensor:
        parts = self.parts
        rate, adversary_rate, share, *offsets = numbers.unbind()
        parts.optimizer.zero_grad(set_to_none=True)
        values = self._gradients(lr, hr, offsets)
        meanwhile()
        parts.scaler.unscale_(parts.optimizer)
        norm = nn.utils.clip_grad_norm_(parts.generator.parameters(), parts.config.clip)
        values = parts.world.mean(values)
        found_inf = (~norm.isfinite()).float()  # also if the loss is not finite, see `_gradients`
        if parts.scaler.is_enabled():
            for group in parts.optimizer.param_groups:
                group["lr"] = rate
            parts.scaler.step(parts.optimizer)
            parts.scaler.update()
        else:
            apply(parts.optimizer, rate, found_inf)
        self._average(share, found_inf)
        if parts.adversary:
            parts.adversary.update(adversary_rate, found_inf)
        # with float16, the scaler finds its scale through gradients that are not finite
        skipped = (~values[0].isfinite()).float() if parts.scaler.is_enabled() else found_inf
        return torch.cat([values, skipped.view(1)])

    def _gradients(self, lr: Tensor, hr: Tensor, offsets: list[Tensor]) -> Tensor:
        """Add the gradients of all parts of the batch. Returns the total and the terms of the loss.

        If the loss is not finite, neither are the gradients.
        """
        parts, config = self.parts, self.parts.config
        values: list[Tensor] = []
        for number in range(config.accumulate):
            part = slice(number, None, config.accumulate)
            last = number == config.accumulate - 1
            with nullcontext() if last else self._unsynchronised():
                with torch.autocast(parts.device.type, parts.autocast, enabled=parts.autocast != torch.float32):
                    sr = parts.model(lr[part])  # autocast casts each weight once
                    loss = parts.loss(*self._shifted(sr.float(), hr[part], offsets))
                    if parts.adversary:
                        rated = parts.adversary.loss(sr.float(), hr[part])
                        loss = loss.plus("adversarial", config.loss.adversarial, rated)
                total = loss.total / config.accumulate
                parts.scaler.scale(total).backward(1 + (total - total).detach())  # 1, or NaN if it is not finite
            values.append(torch.stack([loss.total, *loss.terms.values()]).detach())
            if parts.adversary:
                parts.adversary.learn(sr.float(), hr[part], share=1 / config.accumulate)
        return torch.stack(values).mean(dim=0)

    def _unsynchronised(self) -> AbstractContextManager[None]:
        return self.parts.model.no_sync() if isinstance(self.parts.model, DistributedDataParallel) else nullcontext()

    def _shifted(self, sr: Tensor, hr: Tensor, offsets: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Both images without the rows and columns before the offsets, and all of the same size, if the loss uses VGG."""
        if not self.parts.config.loss.needs_vgg:
            return sr, hr
        for axis, offset in ((-2, offsets[0]), (-1, offsets[1])):
            places = torch.arange(sr.shape[axis] - VGG_CROP_OFFSETS + 1, device=sr.device) + offset.long()
            sr, hr = sr.index_select(axis, places), hr.index_select(axis, places)
        return sr, hr

    @torch.no_grad()
    def _average(self, share: Tensor, found_inf: Tensor) -> None:
        parts = self.parts
        share = share * (1 - found_inf)
        averages = [weight.data for weight in parts.average.parameters()]
        weights = [weight.data for weight in parts.generator.parameters()]
        torch._foreach_add_(averages, torch._foreach_mul(torch._foreach_sub(weights, averages), share))
        for copied, statistic in zip(parts.average.buffers(), parts.generator.buffers(), strict=True):
            copied.copy_(torch.where(found_inf > 0, copied, statistic))


class CapturedUpdate:
    """Runs the first steps like `Update`, then captures one as a CUDA graph, and repeats it.

    If it cannot be captured, all steps run operation by operation, and `on_failure` is told why.
    """

    def __init__(self, update: Update, on_failure: Callable[[str], None]) -> None:
        self.update, self.on_failure = update, on_failure
        self.device = update.parts.device
        self.stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        self.calls = 0
        self.failed = False
        self.graph: torch.cuda.CUDAGraph | None = None
        self.inputs: tuple[Tensor, ...] = ()
        self.result = torch.empty(0)

    def __call__(self, lr: Tensor, hr: Tensor, numbers: Tensor, meanwhile: Callable[[], None]) -> Tensor:
        self.calls += 1
        if not self.failed and self.graph is None and self.calls > WARM_UP:
            self._capture(lr, hr, numbers)
        if self.graph is None:
            return self._eager(lr, hr, numbers, meanwhile)
        for static, given in zip(self.inputs, (lr, hr, numbers), strict=True):
            static.copy_(given)
        self.graph.replay()
        meanwhile()
        return self.result.clone()

    def _eager(self, lr: Tensor, hr: Tensor, numbers: Tensor, meanwhile: Callable[[], None]) -> Tensor:
        self.stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self.stream), torch.backends.cudnn.flags(enabled=True, benchmark=True):
            result = self.update(lr, hr, numbers)
        torch.cuda.current_stream(self.device).wait_stream(self.stream)
        meanwhile()  # not earlier: the thread that makes images waits for this stream
        return result

    def _capture(self, lr: Tensor, hr: Tensor, numbers: Tensor) -> None:
        """Record a step without running it."""
        torch.cuda.synchronize(self.device)
        self.update.parts.optimizer.zero_grad(set_to_none=True)
        inputs = lr.clone(), hr.clone(), numbers.clone()
        graph = torch.cuda.CUDAGraph()
        try:
            with (
                torch.backends.cudnn.flags(enabled=True, benchmark=True),
                torch.cuda.graph(graph, stream=self.stream, capture_error_mode="thread_local"),
            ):
                result = self.update(*inputs)
        except RuntimeError as error:
            self.failed = True
            self.on_failure(str(error).splitlines()[0])
            return
        self.graph, self.inputs, self.result = graph, inputs, result


def step_runner(parts: Parts, on_failure: Callable[[str], None]) -> StepRunner:
    """The fastest way to run steps: captured on a single CUDA GPU, otherwise operation by operation."""
    update = Update(parts)
    return CapturedUpdate(update, on_failure) if parts.world.can_capture(parts.device) else update
