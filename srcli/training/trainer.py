"""The state of training, and its steps.

A step computes LR images from crops, upscales them, compares the result with the crops, updates the weights, and updates their
moving average.
"""

from __future__ import annotations

import copy
import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from srcli.config import VGG_CROP_OFFSETS, GeneratorConfig, TrainConfig
from srcli.core.degradation import margin
from srcli.core.device import autocast_dtype
from srcli.core.losses import WeightedLoss
from srcli.core.networks import Generator, build_generator
from srcli.errors import SrcliError, counted
from srcli.training.adversary import Adversary
from srcli.training.dataset import TrainBatch
from srcli.training.distributed import DistributedContext, shutdown_distributed
from srcli.training.optim import Muon
from srcli.training.pairs import PairMaker
from srcli.training.schedule import is_over, learning_rate


@dataclass(frozen=True)
class Step:
    """The result of a step. terms: of the loss, before their weights; weighted: after them.

    skipped: whether the loss or its gradient was not finite, so that the weights did not change. seconds: duration of the step;
    waited: the part of it spent waiting for the next crops.
    """

    number: int
    total: float
    terms: dict[str, float]
    weighted: dict[str, float]
    lr: float
    skipped: bool = False
    seconds: float = 0.0
    waited: float = 0.0


def crop_size(config: TrainConfig) -> int:
    """Side of the crops that training needs: the patch and a margin for degradation, which is cropped afterward."""
    if config.lr_data is not None:
        return config.patch
    return config.patch + 2 * margin(config.degradation, config.generator.scale) * config.generator.scale


class Trainer:
    """The state of training: generator, averaged generator, optimizer, and counters."""

    def __init__(
        self,
        config: TrainConfig,
        loss: WeightedLoss,
        device: torch.device,
        world: DistributedContext = DistributedContext(),  # noqa: B008, frozen
    ) -> None:
        self.config = config
        self.device = device
        self.world = world
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.generator = build_generator(config.generator)
        self.generator.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        self.average = copy.deepcopy(self.generator).eval().requires_grad_(False)
        self.loss = loss.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.autocast = autocast_dtype(config.precision, device)
        self.optimizer = _optimizer(config, self.generator)
        self.weights = self.loss.weights | ({"adversarial": config.loss.adversarial} if config.loss.adversarial else {})
        self.adversary = (
            Adversary(device, seed=config.seed, dtype=self.autocast, world=world) if config.loss.adversarial else None
        )
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.autocast == torch.float16)
        self.pairs = PairMaker(config, device, world.rank)
        self.steps = 0
        self.schedule_start = 0
        self.elapsed = 0.0
        self.skipped = 0
        self.consecutive_skips = 0
        self.best = math.inf
        self.validations_without_improvement = 0
        self.model = self._runnable()

    def _runnable(self) -> nn.Module:
        """The generator as a step calls it: distributed over processes, compiled."""
        model: nn.Module = self.generator
        if self.world.size > 1:
            if self.device.type == "cuda":
                nn.SyncBatchNorm.convert_sync_batchnorm(self.generator)  # type: ignore[no-untyped-call]
                model = DistributedDataParallel(self.generator, device_ids=[self.device])
            else:
                model = DistributedDataParallel(self.generator)
        return torch.compile(model) if self.config.compile else model  # type: ignore[return-value]

    def shutdown(self) -> None:
        """End distributed training: release what is shared between processes."""
        self.model = self.generator
        shutdown_distributed()

    def initialize_from(self, source: Generator) -> None:
        """Start with the weights of another, fused generator. The scale may differ, and this generator may be wider.

        Raises SrcliError if the layers do not match.
        """
        wanted, given = self.config.generator, source.config
        if not self.generator.can_initialize_from(source):
            raise SrcliError(
                f"The weights of {_sizes(given)} cannot initialize {_sizes(wanted)}. "
                "Set `init` to a model of the same size, or set the size to that of the model."
            )
        self.generator.load_fused(source)
        self.average.load_state_dict(self.generator.state_dict())

    def state(self) -> dict[str, Any]:
        """Everything a resumed run needs to continue exactly. Random numbers depend on the step alone."""
        return {
            "generator": self.generator.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            **({"adversary": self.adversary.state()} if self.adversary else {}),
            **{key: getattr(self, name) for name, key in _COUNTERS.items()},
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.generator.load_state_dict(state["generator"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        if self.adversary:
            self.adversary.restore(state["adversary"])
        for name, key in _COUNTERS.items():
            setattr(self, name, state.get(key, getattr(self, name)))  # older checkpoints have fewer

    @property
    def is_done(self) -> bool:
        """Whether all steps are taken, or the time for training is over."""
        return is_over(self.config, steps=self.steps, elapsed=self.elapsed)

    def tick(self, duration: float) -> None:
        """Count the time of a step, in seconds, including validation and saving. All processes count alike."""
        alone = self.world.size == 1
        self.elapsed += duration if alone else self.world.mean(torch.tensor(duration, device=self.device)).item()

    @property
    def is_finite(self) -> bool:
        weights = (*self.generator.state_dict().values(), *self.average.state_dict().values())
        return all(bool(weight.isfinite().all()) for weight in weights)

    def step(self, batch: TrainBatch, following: TrainBatch | None = None) -> Step:
        """Update the weights once, unless the loss or its gradient is not finite.

        following: the next batch, whose images are prepared while the optimizer, which leaves a core idle, is running.
        """
        config = self.config
        lr_now = learning_rate(config, self.steps, start=self.schedule_start, elapsed=self.elapsed)
        for group in self.optimizer.param_groups:
            group["lr"] = lr_now
        self.optimizer.zero_grad(set_to_none=True)
        lr, hr = self.pairs.pair_of(batch, self.steps)
        values = torch.zeros(1 + len(self.weights), device=self.device)
        for number in range(config.accumulate):
            part = slice(number, None, config.accumulate)
            last = number == config.accumulate - 1
            with nullcontext() if last else self._unsynchronised():
                with torch.autocast(self.device.type, self.autocast, enabled=self.autocast != torch.float32):
                    sr = self.model(lr[part])
                    loss = self.loss(*self._random_vgg_crop(sr.float(), hr[part]))
                    if self.adversary:
                        loss = loss.plus("adversarial", config.loss.adversarial, self.adversary.loss(sr.float(), hr[part]))
                self.scaler.scale(loss.total / config.accumulate).backward()
            values += torch.stack([loss.total, *loss.terms.values()]).detach() / config.accumulate
            if self.adversary:
                self.adversary.learn(sr.float(), hr[part], share=1 / config.accumulate)
        if following is not None:  # not earlier, as the next images overwrite these
            self.pairs.begin(following, self.steps + 1)
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.generator.parameters(), config.clip)
        total, *terms = self.world.mean(values).tolist()
        self.steps += 1
        # with float16, the scaler finds its scale through non-finite gradients, and skips those itself
        finite = math.isfinite(total) and (self.scaler.is_enabled() or bool(norm.isfinite()))
        if finite:
            self.scaler.step(self.optimizer)
            self.scaler.update()
            self._average()
            if self.adversary:
                self.adversary.update(config.adversarial_lr * lr_now / config.lr)
            self.consecutive_skips = 0
        else:
            self.skipped += 1
            self.consecutive_skips += 1
            if self.adversary:
                self.adversary.discard()
            if self.scaler.is_enabled():
                self.scaler.update(self.scaler.get_scale() / 2)
        raw = dict(zip(self.weights, terms, strict=True))
        weighted = {name: self.weights[name] * term for name, term in raw.items()}
        return Step(self.steps, total, raw, weighted, lr_now, skipped=not finite)

    def _unsynchronised(self) -> AbstractContextManager[None]:
        return self.model.no_sync() if isinstance(self.model, DistributedDataParallel) else nullcontext()

    def pair(self, batch: TrainBatch, step: int | None = None) -> tuple[Tensor, Tensor]:
        """`PairMaker.pair` of a step, or of the next one."""
        return self.pairs.pair(batch, self.steps if step is None else step)

    def _random_vgg_crop(self, sr: Tensor, hr: Tensor) -> tuple[Tensor, Tensor]:
        """Crop both images at a random offset if the loss uses VGG.

        VGG's poolings and the generator's pixel shuffle both repeat every few pixels. At a fixed offset, the gradient repeats
        with them, and the generator learns a grid that matches the poolings. At random offsets it averages out.
        """
        if not self.config.loss.needs_vgg:
            return sr, hr
        random = np.random.default_rng([self.config.seed, self.steps, VGG_CROP_OFFSETS])
        rows, columns = (int(random.integers(VGG_CROP_OFFSETS)) for _ in range(2))
        return sr[..., rows:, columns:], hr[..., rows:, columns:]

    @torch.no_grad()
    def _average(self) -> None:
        # a smaller decay at the start removes the initial weights from the average of a short run
        decay = min(self.config.ema, self.steps / (self.steps + 9))
        for average, weight in zip(self.average.parameters(), self.generator.parameters(), strict=True):
            average.lerp_(weight, 1 - decay)
        for copied, statistic in zip(self.average.buffers(), self.generator.buffers(), strict=True):
            copied.copy_(statistic)


_COUNTERS = {
    "steps": "steps",
    "schedule_start": "schedule_start",
    "elapsed": "elapsed",
    "skipped": "skipped",
    "consecutive_skips": "in_a_row",
    "best": "best",
    "validations_without_improvement": "stale",
}
"""Counters of a `Trainer`, and their keys in a checkpoint, which keep older names."""


def _optimizer(config: TrainConfig, generator: Generator) -> torch.optim.Optimizer:
    weights, decay = generator.parameters(), config.weight_decay
    match config.optimizer:
        case "muon":
            return Muon(weights, config.lr, weight_decay=decay)
        case "adam":
            return torch.optim.Adam(weights, config.lr, weight_decay=decay, fused=True)
        case "adamw":
            return torch.optim.AdamW(weights, config.lr, weight_decay=decay, fused=True)


def _sizes(generator: GeneratorConfig) -> str:
    return f"{generator.architecture} with {counted(generator.channels, 'channel')} and {counted(generator.blocks, 'block')}"
