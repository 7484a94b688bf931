"""The learning rate of each step."""

from __future__ import annotations

import math

from srcli.config import TrainConfig, seconds


def is_over(config: TrainConfig, *, steps: int, elapsed: float) -> bool:
    """Whether a run has taken all its steps, or used all its time, in seconds."""
    return steps >= config.steps if config.train_for is None else elapsed >= seconds(config.train_for)


def learning_rate(config: TrainConfig, step: int, *, start: int = 0, elapsed: float = 0.0) -> float:
    """Linear warm-up to `lr`, followed by the schedule.

    cosine: to a hundredth of `lr` at the last step, or at the end of `train_for` (Loshchilov and Hutter 2017). multistep:
    halved at each milestone. start: the step at which the schedule began. elapsed: time spent training, in seconds.
    """
    step -= start
    if config.train_for is not None:
        progress = min(1.0, elapsed / seconds(config.train_for))
        warm = min(1.0, (step + 1) / max(1, config.warmup))
        return config.lr * warm * (_cosine(progress) if config.schedule == "cosine" else 1)
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    match config.schedule:
        case "cosine":
            return config.lr * _cosine(min(1.0, (step - config.warmup) / max(1, config.steps - start - config.warmup)))
        case "multistep":
            return config.lr * 0.5 ** sum(step >= milestone for milestone in config.milestones)
        case "constant":
            return config.lr


def _cosine(progress: float) -> float:
    return 0.01 + 0.99 * (1 + math.cos(math.pi * progress)) / 2
