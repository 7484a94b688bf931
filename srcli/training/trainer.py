"""Settings and a stream of crops in, a trained generator out.

Reports by callback and prints nothing; knows neither folders nor the terminal. A step is: crop, reduce, upscale, compare
with the truth, follow the gradient, and average the weights.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from srcli.config import VGG_CROP_OFFSETS, GeneratorConfig, TrainConfig
from srcli.core.degradation import degraded_pair, margin
from srcli.core.device import autocast_dtype
from srcli.core.losses import WeightedLoss
from srcli.core.networks import Generator, build_generator
from srcli.errors import SrcliError
from srcli.training.dataset import TrainBatch
from srcli.training.distributed import DistributedContext, shutdown_distributed
from srcli.training.optim import Muon
from srcli.training.validation import Scores


@dataclass(frozen=True)
class Step:
    """What one step did. `terms` are the parts of the loss before their weights, `weighted` after them.

    skipped: the loss or its gradient was not finite, and the weights are as they were. seconds: the whole step took;
    waited: of these for the crops of the next.
    """

    number: int
    total: float
    terms: dict[str, float]
    weighted: dict[str, float]
    lr: float
    skipped: bool = False
    seconds: float = 0.0
    waited: float = 0.0


class DivergedError(SrcliError):
    """The loss of several steps in a row was not finite. `crops` are the last of them, taken at `step`."""

    def __init__(self, step: int, crops: TrainBatch) -> None:
        super().__init__(
            f"The loss was not finite in {MAX_CONSECUTIVE_NONFINITE} steps in a row, the last of them step {step}."
        )
        self.step = step
        self.crops = crops


MAX_CONSECUTIVE_NONFINITE = 10
"""Steps in a row without a finite loss after which training ends."""


def crop_size(config: TrainConfig) -> int:
    """Side of the crops that training asks for: the patch, and a margin that the reduction needs and that is cut off."""
    if config.lr_data is not None:
        return config.patch
    return config.patch + 2 * margin(config.degradation, config.generator.scale) * config.generator.scale


class Trainer:
    """What lasts from step to step: generator, averaged generator, optimizer, and how far it has come."""

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
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.autocast == torch.float16)
        self.buffers: dict[tuple[int, ...], Tensor] = {}
        self.maker = ThreadPoolExecutor(1)
        self.ahead: tuple[TrainBatch, Future[tuple[Tensor, Tensor]]] | None = None
        self.steps = 0
        self.skipped = 0
        self.consecutive_skips = 0
        self.best = math.inf
        self.validations_without_improvement = 0
        self.model = self._runnable()

    def _runnable(self) -> nn.Module:
        """The generator as it is called in a step: spread over processes, compiled."""
        model: nn.Module = self.generator
        if self.world.size > 1:
            if self.device.type == "cuda":
                nn.SyncBatchNorm.convert_sync_batchnorm(self.generator)  # type: ignore[no-untyped-call]
                model = DistributedDataParallel(self.generator, device_ids=[self.device])
            else:
                model = DistributedDataParallel(self.generator)
        return torch.compile(model) if self.config.compile else model  # type: ignore[return-value]

    def leave(self) -> None:
        """The end of training together: what was spread over processes is this one's alone, and the others may go."""
        self.model = self.generator
        shutdown_distributed()

    def start_from(self, source: Generator) -> None:
        """Begin with the weights of another generator, in its folded form. The scale may differ, and `compact` may grow wider.

        Raises SrcliError where the sizes do not fit.
        """
        wanted, given = self.config.generator, source.config
        if not self.generator.can_initialize_from(source):
            raise SrcliError(
                f"The first weights are those of {_sizes(given)}, and {_sizes(wanted)} is to be trained. "
                "Give a model of the same sizes, or its sizes as options."
            )
        self.generator.load_fused(source)
        self.average.load_state_dict(self.generator.state_dict())

    def state(self) -> dict[str, Any]:
        """All that a resumed run needs to go on as if it had never stopped. What is random follows from the step alone."""
        return {
            "generator": self.generator.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            **{key: getattr(self, name) for name, key in _COUNTERS.items()},
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.generator.load_state_dict(state["generator"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        for name, key in _COUNTERS.items():
            setattr(self, name, state[key])

    @property
    def is_finite(self) -> bool:
        weights = (*self.generator.state_dict().values(), *self.average.state_dict().values())
        return all(bool(weight.isfinite().all()) for weight in weights)

    def step(self, crops: TrainBatch, following: TrainBatch | None = None) -> Step:
        """One update of the weights, unless the loss or its gradient is not finite.

        following: the next step's crops, whose pair is made while the optimizer, in which a core is idle, does its work.
        """
        config = self.config
        lr_now = learning_rate(config, self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = lr_now
        self.optimizer.zero_grad(set_to_none=True)
        lr, hr = self._pair_of(crops)
        figures = torch.zeros(1 + len(self.loss.weights), device=self.device)
        for number in range(config.accumulate):
            part = slice(number, None, config.accumulate)
            last = number == config.accumulate - 1
            with nullcontext() if last else self._unsynchronised():
                with torch.autocast(self.device.type, self.autocast, enabled=self.autocast != torch.float32):
                    sr = self.model(lr[part])
                    loss = self.loss(*self._random_vgg_crop(sr.float(), hr[part]))
                self.scaler.scale(loss.total / config.accumulate).backward()
            figures += torch.stack([loss.total, *loss.terms.values()]).detach() / config.accumulate
        if following is not None:  # not before, as the next pair takes the place of this one
            self.ahead = self._begin_pair(following, self.steps + 1)
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.generator.parameters(), config.clip)
        total, *terms = self.world.mean(figures).tolist()
        self.steps += 1
        # with float16 the scaler finds its scale by gradients that are not finite, and skips those itself
        sound = math.isfinite(total) and (self.scaler.is_enabled() or bool(norm.isfinite()))
        if sound:
            self.scaler.step(self.optimizer)
            self.scaler.update()
            self._average()
            self.consecutive_skips = 0
        else:
            self.skipped += 1
            self.consecutive_skips += 1
            if self.scaler.is_enabled():
                self.scaler.update(self.scaler.get_scale() / 2)
        raw = dict(zip(self.loss.weights, terms, strict=True))
        weighted = {name: self.loss.weights[name] * term for name, term in raw.items()}
        return Step(self.steps, total, raw, weighted, lr_now, skipped=not sound)

    def _unsynchronised(self) -> AbstractContextManager[None]:
        return self.model.no_sync() if isinstance(self.model, DistributedDataParallel) else nullcontext()

    def _begin_pair(self, crops: TrainBatch, step: int) -> tuple[TrainBatch, Future[tuple[Tensor, Tensor]]]:
        return crops, self.maker.submit(self.pair, crops, step)

    def _pair_of(self, crops: TrainBatch) -> tuple[Tensor, Tensor]:
        """The step's pair, from the same thread whether it was made ahead or not, so that its bits are the same."""
        if self.ahead is None or self.ahead[0] is not crops:
            self.ahead = self._begin_pair(crops, self.steps)
        return self.ahead[1].result()

    def pair(self, crops: TrainBatch, step: int | None = None) -> tuple[Tensor, Tensor]:
        """(lr, hr) on the device, turned and mirrored: N x 3 x patch / scale and N x 3 x patch, RGB in [0, 1].

        step: how many were taken before, from which the degradation follows; None for as many as were.
        """
        scale = self.config.generator.scale
        hr = self._to_device(crops.hr, crops.augmentations)
        if crops.lr is not None:
            return self._to_device(crops.lr, crops.augmentations).contiguous(memory_format=torch.channels_last), hr
        seed = (self.config.seed, self.steps if step is None else step, 1)
        first = self.world.rank * self.config.batch
        lr, hr = degraded_pair(self.config.degradation, hr, scale, seed=seed, first=first)
        return lr.contiguous(memory_format=torch.channels_last), hr

    def _to_device(self, pixels: np.ndarray, augmentations: np.ndarray) -> Tensor:
        """N x P x P x 3 uint8 to N x 3 x P x P in [0, 1] on the device, turned."""
        crops = torch.from_numpy(pixels)
        if self.device.type == "cuda":
            crops = crops.pin_memory().to(self.device, non_blocking=True)
        shape = (len(crops), 3, *crops.shape[1:3])
        if shape not in self.buffers:  # the system takes longer to hand out fresh memory than the crops to fill it
            self.buffers[shape] = torch.empty(shape, device=self.device)
        images = self.buffers[shape]
        for image, crop, turn in zip(images, crops, augmentations, strict=True):
            image.copy_(_augmented(crop.permute(2, 0, 1), *turn).contiguous())  # turned while each number is one byte
        return images.div_(255)

    def _random_vgg_crop(self, sr: Tensor, hr: Tensor) -> tuple[Tensor, Tensor]:
        """Both images less a random number of rows and columns, where VGG will look at them.

        VGG's poolings and the generator's pixel shuffle both repeat every few pixels. If one always meets the other in the
        same place, the gradient does too, and a grid comes out that fits the poolings; in random places it averages away.
        """
        if not self.config.loss.needs_vgg:
            return sr, hr
        random = np.random.default_rng([self.config.seed, self.steps, VGG_CROP_OFFSETS])
        rows, columns = (int(random.integers(VGG_CROP_OFFSETS)) for _ in range(2))
        return sr[..., rows:, columns:], hr[..., rows:, columns:]

    @torch.no_grad()
    def _average(self) -> None:
        # young averages forget faster, so that the first weights do not linger in a short run
        decay = min(self.config.ema, self.steps / (self.steps + 9))
        for average, weight in zip(self.average.parameters(), self.generator.parameters(), strict=True):
            average.lerp_(weight, 1 - decay)
        for copied, statistic in zip(self.average.buffers(), self.generator.buffers(), strict=True):
            copied.copy_(statistic)


_COUNTERS = {
    "steps": "steps",
    "skipped": "skipped",
    "consecutive_skips": "in_a_row",
    "best": "best",
    "validations_without_improvement": "stale",
}
"""Counters of a `Trainer`, and their keys in a checkpoint, which are older than the names here."""


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
    return f"{generator.architecture} with {generator.channels} channels and {generator.blocks} blocks"


def _augmented(image: Tensor, transpose: bool, flip: bool, mirror: bool) -> Tensor:
    """C x P x P transposed, then flipped upside down, then mirrored: all eight ways."""
    image = image.transpose(1, 2) if transpose else image
    return image.flip([axis for axis, wanted in ((1, flip), (2, mirror)) if wanted])


def learning_rate(config: TrainConfig, step: int) -> float:
    """Linear warm-up to `lr`, and then the schedule.

    cosine: to a hundredth of `lr` at the last step (Loshchilov and Hutter 2017). multistep: halved at each milestone.
    """
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    match config.schedule:
        case "cosine":
            progress = min(1.0, (step - config.warmup) / max(1, config.steps - config.warmup))
            return config.lr * (0.01 + 0.99 * (1 + math.cos(math.pi * progress)) / 2)
        case "multistep":
            return config.lr * 0.5 ** sum(step >= milestone for milestone in config.milestones)
        case "constant":
            return config.lr


Ending = Literal["done", "stopped", "patience"]


def train(
    trainer: Trainer,
    batches: Iterator[TrainBatch],
    *,
    on_step: Callable[[Step], None],
    on_save: Callable[[], None],
    validate: Callable[[Generator], Scores] | None = None,
    on_scores: Callable[[Scores, bool], None] = lambda _scores, _improved: None,
    stop: Callable[[], bool] = lambda: False,
) -> Ending:
    """Go on until the last step, until `stop` says so, or until patience ends.

    batches: the crops of the next step and those after it. on_save: at intervals and at the end. on_scores: after each
    validation, of the averaged generator, with whether its loss is the least so far.
    Raises DivergedError where the loss persists in not being finite; the weights are then those of the last sound step.
    """
    config = trainer.config

    def score() -> None:
        if validate is not None:
            scores = validate(trainer.average)
            improved = scores.loss < trainer.best
            trainer.best = min(scores.loss, trainer.best)
            trainer.validations_without_improvement = 0 if improved else trainer.validations_without_improvement + 1
            on_scores(scores, improved)

    if trainer.steps == 0:
        score()
    crops = next(batches)
    while trainer.steps < config.steps:
        started = time.perf_counter()
        following = next(batches)
        waited = time.perf_counter() - started
        step = trainer.step(crops, following)
        on_step(replace(step, seconds=time.perf_counter() - started, waited=waited))
        if trainer.consecutive_skips >= MAX_CONSECUTIVE_NONFINITE:
            raise DivergedError(step.number, crops)
        crops = following
        last = step.number == config.steps
        if last or step.number % config.val_every == 0:
            score()
        # one process validates and each may be stopped, but all end at the same step
        tired = bool(config.patience) and trainer.world.any(
            trainer.validations_without_improvement >= config.patience, trainer.device
        )
        stopped = trainer.world.any(stop(), trainer.device)
        if last or tired or stopped or step.number % config.save_every == 0:
            on_save()
        if last or tired or stopped:
            return "done" if last else "patience" if tired else "stopped"
    return "done"
