"""The state of training, and its steps.

A step computes LR images from crops, upscales them, compares the result with the crops, updates the weights, and updates their
moving average.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from srcli.config import GeneratorConfig, TrainConfig
from srcli.core.degradation import margin
from srcli.core.device import autocast_dtype
from srcli.core.losses import WeightedLoss
from srcli.core.networks import Generator, build_generator
from srcli.errors import SrcliError, counted
from srcli.training.adversary import Adversary
from srcli.training.dataset import PhotoDataset
from srcli.training.distributed import DistributedContext, shutdown_distributed
from srcli.training.gather import Batch, on_device, resident
from srcli.training.optim import Muon, prepared, restore_state, state_of
from srcli.training.pairs import PairMaker
from srcli.training.schedule import is_over, learning_rate
from srcli.training.update import Parts, StepRunner, numbers_of_step, step_runner


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
        self.optimizer = _optimizer(config, self.generator, captured=world.can_capture(device))
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
        self.unread: list[tuple[int, float, Tensor]] = []
        self.on_message: Callable[[str], None] = lambda _sentence: None
        self.run = self._runner()

    def _runner(self) -> StepRunner:
        parts = Parts(
            self.config,
            self.device,
            self.world,
            self.generator,
            self.average,
            self.model,
            self.loss,
            self.optimizer,
            self.adversary,
            self.scaler,
            self.autocast,
        )
        return step_runner(parts, lambda why: self.on_message(f"Each operation is launched by itself, which is slower: {why}."))

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
        self.run = self._runner()
        shutdown_distributed()

    def use_gpu(self, photos: PhotoDataset | None) -> list[str]:
        """Keep the photographs in the GPU's memory if they fit. Returns what makes training slower than it could be.

        photos: None if they are not in memory. On the CPU this does nothing.
        """
        if self.device.type != "cuda":
            return []
        self.pairs.resident = kept = None if photos is None else resident(photos, self.device)
        why = {
            "The photographs do not fit into the GPU's memory, so the crops of each step are copied there.": kept is None,
            "With several processes, a step is not captured as a CUDA graph, which is slower.": self.world.size > 1,
        }
        return [sentence for sentence, applies in why.items() if applies]

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
            "optimizer": state_of(self.optimizer),
            "scaler": self.scaler.state_dict(),
            **({"adversary": self.adversary.state()} if self.adversary else {}),
            **{key: getattr(self, name) for name, key in _COUNTERS.items()},
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.generator.load_state_dict(state["generator"])
        self.average.load_state_dict(state["average"])
        restore_state(self.optimizer, state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        if self.adversary:
            self.adversary.restore(state["adversary"])
        self.run = self._runner()  # a captured step would use the memory of the state before
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

    def step(self, batch: Batch, following: Batch | None = None) -> Step:
        """Update the weights once, unless the loss or its gradient is not finite, and read the result.

        following: the next batch, whose images are prepared meanwhile.
        """
        self.advance(batch, following)
        return list(self.results())[-1]

    def advance(self, batch: Batch, following: Batch | None = None) -> None:
        """Take a step like `step`, but do not wait for the device. `results` reads what came out."""
        lr = learning_rate(self.config, self.steps, start=self.schedule_start, elapsed=self.elapsed)
        numbers = on_device(torch.tensor(numbers_of_step(self.config, self.steps, lr)), self.device)

        def meanwhile() -> None:
            if following is not None:
                self.pairs.begin(following, self.steps + 1)

        images = self.pairs.pair_of(batch, self.steps)
        values = self.run(*images, numbers, meanwhile)
        self.steps += 1
        self.unread.append((self.steps, lr, values))

    def results(self) -> Iterator[Step]:
        """The steps whose results were not read yet, in order, while they are counted. Waits for the device."""
        unread, self.unread = self.unread, []
        rows = torch.stack([values for *_, values in unread]).tolist() if unread else []
        for (number, lr, _), (total, *terms, skipped) in zip(unread, rows, strict=True):
            self.skipped += bool(skipped)
            self.consecutive_skips = self.consecutive_skips + 1 if skipped else 0
            raw = dict(zip(self.weights, terms, strict=True))
            weighted = {name: self.weights[name] * term for name, term in raw.items()}
            yield Step(number, total, raw, weighted, lr, skipped=bool(skipped))

    def pair(self, batch: Batch, step: int | None = None) -> tuple[Tensor, Tensor]:
        """`PairMaker.pair` of a step, or of the next one."""
        return self.pairs.pair(batch, self.steps if step is None else step)


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


def _optimizer(config: TrainConfig, generator: Generator, *, captured: bool) -> torch.optim.Optimizer:
    weights, decay = generator.parameters(), config.weight_decay
    if config.optimizer == "muon":
        return Muon(weights, config.lr, weight_decay=decay)
    kind = torch.optim.Adam if config.optimizer == "adam" else torch.optim.AdamW
    return prepared(kind(weights, config.lr, weight_decay=decay, fused=True, capturable=captured))


def _sizes(generator: GeneratorConfig) -> str:
    return f"{generator.architecture} with {counted(generator.channels, 'channel')} and {counted(generator.blocks, 'block')}"
