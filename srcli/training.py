"""Settings and a stream of crops in, a trained generator out.

Reports by callback and prints nothing; knows neither folders nor the terminal. A step is: crop, reduce, enlarge, compare
with the truth, follow the gradient, and average the weights.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from srcli.core.degradation import MARGIN, bicubic
from srcli.core.devices import autocast_type
from srcli.core.generators import Generator, build_generator
from srcli.errors import SrcliError
from srcli.settings import GeneratorSettings, TrainSettings


class Crops(Protocol):
    """Where the true pictures come from: crops that depend on nothing but these arguments."""

    def batch(self, step: int, *, seed: int, count: int, patch: int) -> np.ndarray:
        """count x 3 x patch x patch, uint8."""


@dataclass(frozen=True)
class Step:
    """What one step did. `terms` are the parts of the loss before their weights."""

    number: int
    total: float
    terms: dict[str, float]
    lr: float


def crop_size(settings: TrainSettings) -> int:
    """Side of the crops that training asks for: the patch, and a margin that the reduction needs and that is cut off."""
    return settings.patch + 2 * MARGIN * settings.generator.scale


SHIFTS = 8
"""Shifts in each direction that are tried: the stride of VGG16 after three poolings, at relu4_3."""


class Training:
    """What lasts from step to step: generator, averaged generator, optimizer and the number of steps done."""

    def __init__(self, settings: TrainSettings, loss: nn.Module, device: torch.device) -> None:
        self.settings = settings
        self.device = device
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            self.generator = build_generator(settings.generator)
        self.generator.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        self.average = copy.deepcopy(self.generator).eval().requires_grad_(False)
        self.loss = loss.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = torch.optim.Adam(self.generator.parameters(), lr=settings.lr)
        self.autocast = autocast_type(settings.precision, device)
        self.steps = 0

    def start_from(self, source: Generator) -> None:
        """Begin with the weights of another generator, in its folded form. The scale may differ, nothing else.

        Raises SrcliError where the sizes differ.
        """
        wanted, given = self.settings.generator, source.settings
        if type(wanted) is not type(given) or replace(given, scale=wanted.scale) != wanted:
            raise SrcliError(
                f"The first weights are those of {_sizes(given)}, and {_sizes(wanted)} is to be trained. "
                "Give a model of the same sizes, or its sizes as options."
            )
        self.generator.load_folded(source)
        self.average.load_state_dict(self.generator.state_dict())

    def state(self) -> dict[str, Any]:
        """All that a resumed run needs to go on as if it had never stopped."""
        return {
            "generator": self.generator.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "steps": self.steps,
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.generator.load_state_dict(state["generator"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.steps = state["steps"]

    def step(self, crops: np.ndarray) -> Step:
        """One update of the weights from count x 3 x crop_size x crop_size true crops, uint8."""
        settings = self.settings
        lr_now = learning_rate(settings, self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = lr_now
        lr, hr = self._pair(crops)
        with torch.autocast(self.device.type, self.autocast, enabled=self.autocast != torch.float32):
            sr = self.generator(lr)
            loss = self.loss(*self._shifted(sr.float(), hr))
        if not torch.isfinite(loss.total):
            raise SrcliError(
                f"The loss is {loss.total.item()} at step {self.steps + 1}, so training stopped; "
                "the last checkpoint is whole. Resume it with a smaller --lr."
            )
        self.optimizer.zero_grad(set_to_none=True)
        loss.total.backward()
        nn.utils.clip_grad_norm_(self.generator.parameters(), settings.clip)
        self.optimizer.step()
        self.steps += 1
        self._average()
        return Step(self.steps, loss.total.item(), {name: term.item() for name, term in loss.terms.items()}, lr_now)

    def _pair(self, crops: np.ndarray) -> tuple[Tensor, Tensor]:
        scale = self.settings.generator.scale
        hr = torch.from_numpy(crops).to(self.device).float() / 255
        lr = bicubic(hr, scale)
        inner = slice(MARGIN, -MARGIN)
        outer = slice(MARGIN * scale, -MARGIN * scale)
        return lr[..., inner, inner].contiguous(memory_format=torch.channels_last), hr[..., outer, outer]

    def _shifted(self, sr: Tensor, hr: Tensor) -> tuple[Tensor, Tensor]:
        """Both pictures less a random number of rows and columns, where VGG will look at them.

        VGG's poolings and the generator's pixel shuffle both repeat every few pixels. If one always meets the other in the
        same place, the gradient does too, and a grid comes out that fits the poolings; in random places it averages away.
        """
        if not self.settings.loss.feature:
            return sr, hr
        random = np.random.default_rng([self.settings.seed, self.steps, SHIFTS])
        rows, columns = (int(random.integers(SHIFTS)) for _ in range(2))
        return sr[..., rows:, columns:], hr[..., rows:, columns:]

    @torch.no_grad()
    def _average(self) -> None:
        # young averages forget faster, so that the first weights do not linger in a short run
        decay = min(self.settings.ema, self.steps / (self.steps + 9))
        for average, weight in zip(self.average.parameters(), self.generator.parameters(), strict=True):
            average.lerp_(weight, 1 - decay)
        for copied, statistic in zip(self.average.buffers(), self.generator.buffers(), strict=True):
            copied.copy_(statistic)


def _sizes(generator: GeneratorSettings) -> str:
    return f"{generator.architecture} with {generator.channels} channels and {generator.blocks} blocks"


def learning_rate(settings: TrainSettings, step: int) -> float:
    """Linear warm-up to `lr`, then a cosine to a hundredth of it at the last step (Loshchilov and Hutter 2017)."""
    if step < settings.warmup:
        return settings.lr * (step + 1) / settings.warmup
    progress = min(1.0, (step - settings.warmup) / max(1, settings.steps - settings.warmup))
    return settings.lr * (0.01 + 0.99 * (1 + math.cos(math.pi * progress)) / 2)


def train(
    training: Training,
    crops: Crops,
    *,
    on_step: Callable[[Step], None],
    on_save: Callable[[], None],
    stop: Callable[[], bool] = lambda: False,
) -> bool:
    """Go on until the last step and call `on_save` at intervals and at the end. False if `stop` ended it before."""
    settings = training.settings
    while training.steps < settings.steps:
        step = training.step(crops.batch(training.steps, seed=settings.seed, count=settings.batch, patch=crop_size(settings)))
        on_step(step)
        stopped = stop()
        if stopped or step.number % settings.save_every == 0 or step.number == settings.steps:
            on_save()
        if stopped:
            return training.steps >= settings.steps
    return True
