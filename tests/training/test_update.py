"""Updates: nothing in them waits for the device or depends on the host, so that they can be captured as a CUDA graph."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from srcli.config import CompactConfig, JohnsonConfig, LossConfig, TrainConfig
from srcli.core.losses import WeightedLoss
from srcli.models.perceptual import FeatureLoss
from srcli.training.dataset import PhotoDataset
from srcli.training.trainer import Trainer, crop_size
from srcli.training.update import CapturedUpdate
from tests.conftest import EXAMPLES
from tests.training.test_trainer import CPU, tiny, weights

EVERY_TERM = LossConfig(
    **dict.fromkeys(("pixel", "l1", "charbonnier", "feature", "texture", "tv", "grid", "frequency", "consistency"), 0.1),
    peak=0.01,
    adversarial=0.01,
    layers={"relu1_2": 1.0},
)
CASES = {
    "muon, every term": {"loss": EVERY_TERM, "patch": 40, "accumulate": 2, "weight_decay": 0.1},
    "adam, bfloat16": {"optimizer": "adam", "precision": "bf16"},
    "adamw, float16": {"optimizer": "adamw", "precision": "fp16"},
    "muon, float16": {"precision": "fp16"},
    "batch normalization": {"generator": JohnsonConfig(scale=2, channels=8, blocks=1)},
}
WAITING = ("aten._local_scalar_dense", "aten.nonzero", "aten.lift_fresh", "aten.equal", "aten.is_pinned", "aten.masked_select")
"""Operations that read a value back, or that copy one from the host."""


class Operations(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.add(str(func).rsplit(".", 1)[0])
        return func(*args, **(kwargs or {}))


def start(config: TrainConfig, device: torch.device = CPU) -> Trainer:
    feature = FeatureLoss(config.loss.layers) if config.loss.needs_vgg else None
    return Trainer(config, WeightedLoss(config.loss, feature, config.generator.scale), device)


@pytest.fixture(scope="module")
def photos() -> PhotoDataset:
    return PhotoDataset.read(EXAMPLES / "photos", smallest=80)


def take(trainer: Trainer, photos: PhotoDataset, steps: int) -> None:
    config = trainer.config
    for _ in range(steps):
        trainer.step(photos.batch(trainer.steps, seed=0, size=config.batch, patch=crop_size(config)))


@pytest.mark.parametrize("case", CASES)
def test_an_update_reads_nothing_back(case: str, photos: PhotoDataset) -> None:
    trainer = start(tiny(**CASES[case]))
    take(trainer, photos, 1)
    run, operations = trainer.run, Operations()

    def watched(*arguments: Any) -> torch.Tensor:
        with operations:
            return run(*arguments)

    trainer.run = watched
    take(trainer, photos, 1)
    assert "aten.convolution" in operations.seen
    # the CPU's kernels of fused Adam and of the gradient scaler read the values that those of a GPU leave there
    assert not operations.seen & set(WAITING)


@pytest.mark.parametrize("case", CASES)
def test_nothing_changes_if_the_loss_is_not_finite(case: str, photos: PhotoDataset) -> None:
    trainer = start(tiny(**CASES[case]))
    take(trainer, photos, 1)
    trainer.loss.weights[next(iter(trainer.loss.weights))] = float("nan")
    statistics = {name for name, _ in trainer.generator.named_buffers()}  # of batch normalization: they are finite

    def state() -> list[torch.Tensor]:
        kept = [weight for name, weight in trainer.generator.state_dict().items() if name not in statistics]
        moments = [each for weight in trainer.optimizer.state_dict()["state"].values() for each in weight.values()]
        rated = [] if trainer.adversary is None else list(trainer.adversary.discriminator.parameters())
        return [each.detach().clone() for each in (*kept, *trainer.average.state_dict().values(), *moments, *rated)]

    before = state()
    take(trainer, photos, 1)
    assert trainer.skipped == 1
    assert all(torch.equal(old, new) for old, new in zip(before, state(), strict=True))


def test_results_can_be_read_later(photos: PhotoDataset) -> None:
    """As on a GPU, where reading each one would make it wait."""
    each, later = start(tiny()), start(tiny())
    taken = [each.step(photos.batch(step, seed=0, size=2, patch=40)) for step in range(4)]
    for step in range(4):
        later.advance(photos.batch(step, seed=0, size=2, patch=40))
    assert list(later.results()) == taken
    assert list(later.results()) == []


@pytest.mark.parametrize("optimizer", ["muon", "adam"])
def test_a_checkpoint_of_an_earlier_version_is_continued(optimizer: str, photos: PhotoDataset) -> None:
    """It has a learning rate and steps that are numbers, and momentum with the layout of its kernel."""
    one, other = start(tiny(optimizer=optimizer)), start(tiny(optimizer=optimizer))
    take(one, photos, 2)
    state = copy.deepcopy(one.state())
    for entry in state["optimizer"]["state"].values():
        if "step" in entry and optimizer == "muon":
            entry["step"] = int(entry["step"])
        if "momentum" in entry:
            entry["momentum"] = entry["momentum"].contiguous(memory_format=torch.channels_last)
    assert isinstance(state["optimizer"]["param_groups"][0]["lr"], float)
    other.restore(state)
    for trainer in (one, other):
        take(trainer, photos, 2)
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(weights(one), weights(other), strict=True))


GPU = torch.device("cuda")


@pytest.mark.gpu
@pytest.mark.parametrize("case", CASES)
def test_a_captured_step_does_what_its_operations_do(case: str, photos: PhotoDataset) -> None:
    """Up to rounding, as kernels may add in another order; Adam divides by it."""
    config = tiny(**({"generator": CompactConfig(scale=2, channels=8, blocks=1), "lr": 1e-4} | CASES[case]))
    captured, each = start(config, GPU), start(config, GPU)
    assert isinstance(captured.run, CapturedUpdate)
    each.run = captured_as_eager(each)
    for trainer in (captured, each):
        take(trainer, photos, 8)
    assert captured.run.graph is not None
    for mine, theirs in zip(weights(captured), weights(each), strict=True):
        torch.testing.assert_close(mine, theirs, atol=2e-3, rtol=1e-2)


def captured_as_eager(trainer: Trainer) -> Any:
    assert isinstance(trainer.run, CapturedUpdate)
    return trainer.run.update


@pytest.mark.gpu
def test_a_captured_step_whose_loss_is_not_finite_changes_nothing(
    photos: PhotoDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = start(tiny(), GPU)
    take(trainer, photos, 6)
    before = [weight.clone() for weight in weights(trainer)]
    lr, hr = trainer.pair(photos.batch(6, seed=0, size=2, patch=crop_size(trainer.config)))
    monkeypatch.setattr(trainer.pairs, "pair_of", lambda _batch, _step: (lr, hr * float("nan")))
    take(trainer, photos, 1)
    assert trainer.skipped == 1
    assert all(torch.equal(old, new) for old, new in zip(before, weights(trainer), strict=True))


@pytest.mark.gpu
def test_a_step_that_cannot_be_captured_runs_operation_by_operation(photos: PhotoDataset) -> None:
    trainer = start(tiny(), GPU)
    assert isinstance(trainer.run, CapturedUpdate)
    update: Callable[..., torch.Tensor] = trainer.run.update
    told: list[str] = []
    trainer.on_message = told.append

    def reading(lr: torch.Tensor, *rest: Any) -> torch.Tensor:
        lr.sum().item()
        return update(lr, *rest)

    reading.parts = update.parts  # type: ignore[attr-defined]
    trainer.run.update = reading  # type: ignore[assignment]
    take(trainer, photos, 6)
    assert trainer.steps == 6
    assert len(told) == 1
