"""The training loop: it learns, is reproducible to the bit, and resumes exactly."""

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from srcli.config import CompactConfig, JohnsonConfig, LossConfig, TrainConfig, from_mapping, to_mapping
from srcli.core.degradation import bicubic
from srcli.core.losses import WeightedLoss
from srcli.core.networks import Generator
from srcli.errors import ConfigError, SrcliError
from srcli.models.checkpoint import load_generator, save_model
from srcli.models.perceptual import FeatureLoss
from srcli.models.registry import describe_model, read_weights
from srcli.training.dataset import PhotoDataset, TrainBatch
from srcli.training.history import History
from srcli.training.loop import DivergedError, train
from srcli.training.plots import read_history
from srcli.training.run_dir import RunDirectory
from srcli.training.schedule import learning_rate
from srcli.training.settings import read_yaml, write_yaml
from srcli.training.trainer import Step, Trainer, crop_size
from srcli.training.validation import Scores
from tests.conftest import EXAMPLES

CPU = torch.device("cpu")
SMALL = torch.rand(1, 3, 16, 16)


def tiny(**changes: object) -> TrainConfig:
    values = {"generator": CompactConfig(scale=2, channels=8, blocks=1), "steps": 6, "batch": 2, "patch": 32, "warmup": 2}
    return TrainConfig(**(values | {"precision": "fp32"} | changes))  # type: ignore[arg-type]


def start(config: TrainConfig) -> Trainer:
    feature = FeatureLoss(config.loss.layers) if config.loss.feature else None
    return Trainer(config, WeightedLoss(config.loss, feature, config.generator.scale), CPU)


def batches(trainer: Trainer, photos: PhotoDataset) -> Iterator[TrainBatch]:
    config = trainer.config
    for step in count(trainer.steps):
        yield photos.batch(step, seed=config.seed, size=config.batch, patch=crop_size(config))


def run(trainer: Trainer, photos: PhotoDataset, until: int | None = None) -> list[Step]:
    steps: list[Step] = []
    stop = lambda: trainer.steps == until  # noqa: E731
    train(trainer, batches(trainer, photos), on_step=steps.append, on_save=lambda: None, stop=stop)
    return steps


def weights(trainer: Trainer) -> list[Tensor]:
    return [*trainer.generator.state_dict().values(), *trainer.average.state_dict().values()]


@pytest.fixture
def crops(photos: Path) -> PhotoDataset:
    return PhotoDataset.read(photos, smallest=40)


def test_it_learns() -> None:
    """After 150 steps, unseen crops are upscaled better than with bilinear interpolation, where training starts."""
    photos = PhotoDataset.read(EXAMPLES / "photos", smallest=40)
    trainer = start(tiny(steps=150, lr=5e-3, batch=8))
    unseen = torch.from_numpy(photos.batch(0, seed=99, size=32, patch=40).hr).permute(0, 3, 1, 2).float() / 255

    def error() -> float:
        return torch.nn.functional.mse_loss(trainer.average(bicubic(unseen, 2)), unseen).item()

    before = error()
    run(trainer, photos)
    assert error() < 0.9 * before


def test_the_first_validation_does_not_wait_for_many_steps(crops: PhotoDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new run has one more, after a time; a resumed one does not."""

    def validated(trainer: Trainer) -> list[int]:
        steps: list[int] = []
        ignore: dict[str, Any] = {"on_step": lambda _step: None, "on_save": lambda: None}
        score = lambda _generator: (steps.append(trainer.steps), Scores(30.0, 0.9, 0.1))[1]  # noqa: E731
        train(trainer, batches(trainer, crops), **ignore, validate=score)
        return steps

    assert validated(start(tiny())) == [0, 6]
    monkeypatch.setattr("srcli.training.loop.EARLY_VALIDATION", 0.0)
    assert validated(start(tiny())) == [0, 1, 6]
    resumed = start(tiny())
    run(resumed, crops, until=2)
    assert validated(resumed) == [6]


def test_a_validation_has_the_row_of_its_step(tmp_path: Path, crops: PhotoDataset) -> None:
    """Also one whose step ends a row of the history anyway."""
    run = RunDirectory(tmp_path)
    history = History(run, tiny(), images=2, epoch=lambda step: step / 10)
    scores = Scores(30.0, 0.9, 0.1), Scores(28.0, 0.8, 0.2)
    for number in range(1, 302):
        history.add(Step(number, 1.0, {"pixel": 1.0}, {"pixel": 1.0}, 0.01, seconds=0.1), skipped=number // 150)
        if number in (50, 200):
            history.write(number, scores)
    rows = read_history(run.history)
    assert [row["step"] for row in rows] == ["50", "100", "200", "300"]
    assert [bool(row["val_psnr"]) for row in rows] == [True, False, True, False]
    assert [row["skipped"] for row in rows] == ["0", "0", "1", "2"]
    assert all(row["loss"] == "1.0" for row in rows)


@pytest.mark.parametrize(
    "generator", [CompactConfig(scale=3, channels=8, blocks=1), JohnsonConfig(scale=2, channels=8, blocks=1)]
)
@pytest.mark.parametrize("loss", [LossConfig(pixel=1), LossConfig(pixel=0.5, feature=0.1, layers={"relu2_2": 1.0})])
def test_every_weight_moves(crops: PhotoDataset, generator: CompactConfig | JohnsonConfig, loss: LossConfig) -> None:
    trainer = start(tiny(generator=generator, loss=loss, patch=48, steps=3))
    before = [weight.clone() for weight in trainer.generator.parameters()]
    run(trainer, crops)
    assert all((old != new).any() for old, new in zip(before, trainer.generator.parameters(), strict=True))


def test_the_same_seed_gives_the_same_weights(crops: PhotoDataset) -> None:
    one, other, third = start(tiny()), start(tiny()), start(tiny(seed=1))
    for trainer in (one, other, third):
        run(trainer, crops)
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(weights(one), weights(other), strict=True))
    assert not all(torch.equal(mine, theirs) for mine, theirs in zip(weights(one), weights(third), strict=True))


def test_a_resumed_run_ends_with_the_same_bits(tmp_path: Path, crops: PhotoDataset) -> None:
    config = tiny(generator=JohnsonConfig(scale=2, channels=8, blocks=1))  # batch normalization has state of its own
    whole = start(config)
    run(whole, crops)
    part = start(config)
    assert run(part, crops, until=3)[-1].number == 3
    folder = RunDirectory(tmp_path / "run")
    folder.create(config, "srcli train")
    folder.save_checkpoint(part, {})
    resumed = start(config)
    resumed.restore(folder.load())
    assert run(resumed, crops)[0].number == 4
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(weights(whole), weights(resumed), strict=True))


def test_images_prepared_ahead_equal_those_of_their_step(crops: PhotoDataset) -> None:
    config = tiny(degradation="photo", patch=16)
    photos = PhotoDataset.read(EXAMPLES / "photos", smallest=90)
    ahead, each = start(config), start(config)
    run(ahead, photos)
    stream = batches(each, photos)
    for _ in range(config.steps):
        each.step(next(stream))
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(weights(ahead), weights(each), strict=True))


def test_an_update_is_the_same_in_one_part_and_in_four(crops: PhotoDataset) -> None:
    whole, parts = start(tiny(batch=4, steps=2)), start(tiny(batch=4, steps=2, accumulate=4))
    for trainer in (whole, parts):
        run(trainer, crops)
    for mine, theirs in zip(weights(whole), weights(parts), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("degradation", ["johnson", "photo"])
def test_it_learns_from_every_degradation(crops: PhotoDataset, degradation: str) -> None:
    steps = run(start(tiny(degradation=degradation, steps=3, patch=16)), PhotoDataset.read(EXAMPLES / "photos", smallest=90))
    assert len({step.total for step in steps}) == 3


def test_the_model_file_contains_the_averaged_generator_fused(tmp_path: Path, crops: PhotoDataset) -> None:
    trainer = start(tiny())
    run(trainer, crops)
    path = tmp_path / "model.safetensors"
    save_model(path, trainer.average, trainer.config.generator, {"note": "kept"}, SMALL)
    lr = torch.rand(1, 3, 9, 9)
    torch.testing.assert_close(load_generator(path)(lr), trainer.average(lr), atol=1e-5, rtol=0)
    assert describe_model(path).about == {"note": "kept"}
    assert "int8.tail.range" in read_weights(describe_model(f"{path}:int8"))


def test_the_average_lies_between_the_first_weights_and_the_last(crops: PhotoDataset) -> None:
    trainer = start(tiny(ema=0.5, steps=1))
    before = trainer.generator.head.bias.clone()
    run(trainer, crops)
    torch.testing.assert_close(trainer.average.head.bias, 0.9 * trainer.generator.head.bias + 0.1 * before)


def test_initial_weights_from_a_model_of_another_scale(tmp_path: Path, crops: PhotoDataset) -> None:
    source = start(tiny(generator=CompactConfig(scale=4, channels=8, blocks=1)))
    target = start(tiny())
    target.initialize_from(source.generator.fused())
    torch.testing.assert_close(target.average.head.weight, source.generator.head.weight)
    with pytest.raises(
        SrcliError, match="compact with 8 channels and 1 block cannot initialize compact with 8 channels and 2 blocks"
    ):
        start(tiny(generator=CompactConfig(scale=2, channels=8, blocks=2))).initialize_from(source.generator.fused())


@pytest.mark.parametrize("scale", [4, 8])
def test_initial_weights_of_another_architecture_are_rejected(scale: int) -> None:
    source = start(tiny(generator=CompactConfig(scale=4, channels=8, blocks=1)))
    with pytest.raises(SrcliError, match="compact with 8 channels and 1 block cannot initialize johnson with 8 channels"):
        start(tiny(generator=JohnsonConfig(scale=scale, channels=8, blocks=1))).initialize_from(source.generator.fused())


def test_a_step_whose_loss_is_not_finite_is_skipped_and_counted(crops: PhotoDataset) -> None:
    trainer = start(tiny())
    run(trainer, crops, until=2)
    before = [weight.clone() for weight in weights(trainer)]
    trainer.loss.weights["pixel"] = float("nan")
    step = trainer.step(next(batches(trainer, crops)))
    assert (step.skipped, trainer.skipped, trainer.consecutive_skips, trainer.steps) == (True, 1, 1, 3)
    trainer.loss.weights["pixel"] = 1.0
    assert all(torch.equal(old, new) for old, new in zip(before, weights(trainer), strict=True))
    assert not trainer.step(next(batches(trainer, crops))).skipped
    assert (trainer.skipped, trainer.consecutive_skips) == (1, 0)


def test_a_persistently_non_finite_loss_ends_training(crops: PhotoDataset) -> None:
    trainer = start(tiny(steps=100))
    torch.nn.init.constant_(trainer.generator.tail.bias, float("nan"))
    before = trainer.average.head.weight.clone()
    with pytest.raises(DivergedError, match="10 consecutive steps, up to step 10"):
        run(trainer, crops)
    assert torch.equal(trainer.average.head.weight, before)


def test_weights_that_are_not_finite_are_never_written(tmp_path: Path, crops: PhotoDataset) -> None:
    trainer = start(tiny())
    folder = RunDirectory(tmp_path / "run")
    folder.create(trainer.config, "srcli train")
    folder.save_checkpoint(trainer, {})
    written = folder.checkpoint.read_bytes()
    torch.nn.init.constant_(trainer.average.tail.bias, float("inf"))
    with pytest.raises(SrcliError, match="not finite after step 0"):
        folder.save_checkpoint(trainer, {})
    assert folder.checkpoint.read_bytes() == written


def test_patience_ends_training_and_improvements_are_reported(crops: PhotoDataset) -> None:
    """Validation losses 5, 4, 4, 3, 3, 3 at steps 0 to 5: after step 5, two had no improvement."""
    losses = iter([5.0, 4.0, 4.0, 3.0, 3.0, 3.0])
    told: list[bool] = []
    trainer = start(tiny(steps=50, val_every=1, patience=2))

    def validate(generator: Generator) -> Scores:
        assert generator is trainer.average
        return Scores(psnr=30, ssim=0.9, loss=next(losses))

    ending = train(
        trainer,
        batches(trainer, crops),
        on_step=lambda _step: None,
        on_save=lambda: None,
        validate=validate,
        on_scores=lambda _scores, improved: told.append(improved),
    )
    assert (ending, trainer.steps, trainer.best) == ("patience", 5, 3.0)
    assert told == [True, True, False, True, False, False]


def test_the_learning_rate_warms_up_and_follows_a_cosine() -> None:
    config = tiny(lr=1.0, warmup=10, steps=110)
    rates = [learning_rate(config, step) for step in (0, 9, 10, 60, 110)]
    assert rates == pytest.approx([0.1, 1.0, 1.0, 0.505, 0.01])


def test_the_learning_rate_is_halved_at_milestones_or_constant() -> None:
    config = tiny(lr=1.0, warmup=0, schedule="multistep", milestones=(10, 20))
    assert [learning_rate(config, step) for step in (9, 10, 19, 20)] == [1.0, 0.5, 0.5, 0.25]
    assert learning_rate(tiny(lr=1.0, warmup=0, schedule="constant"), 10**6) == 1.0


def test_weight_decay_is_decoupled_as_in_adamw() -> None:
    trainer = start(tiny(optimizer="adamw", weight_decay=0.1))
    assert isinstance(trainer.optimizer, torch.optim.AdamW)
    assert trainer.optimizer.defaults["weight_decay"] == 0.1


def test_a_crop_includes_the_margin_for_degradation() -> None:
    assert crop_size(tiny()) == 32 + 2 * 2 * 2
    assert crop_size(tiny(lr_data="pairs")) == 32


def test_settings_survive_yaml(tmp_path: Path) -> None:
    config = tiny(loss=LossConfig(pixel=0.5, feature=2, layers={"relu2_2": 0.5, "conv5_1": 1.0}), lr=1e-4)
    (tmp_path / "settings.yaml").write_text(write_yaml(config))
    assert read_yaml(tmp_path / "settings.yaml") == config
    assert from_mapping(TrainConfig, to_mapping(config), "here") == config


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("stepps: 5", "unknown key 'stepps'. Did you mean steps"),
        ("generator: {chanels: 5}", "generator has an unknown key 'chanels'. Did you mean channels"),
        ("generator: {architecture: jonson}", "no generator 'jonson'. Did you mean johnson"),
        ("loss: {layers: {relu9_9: 1}}", "no layer relu9_9"),
        ("loss: {pixel: -1}", "it must be at least 0"),
        ("steps: many", "steps is 'many'; it should be an integer"),
        ("steps: 0", "it must be at least 1"),
        ("lr: -0.1", "above 0"),
        ("ema: 1", "below 1"),
        ("precision: fp8", "should be one of auto, fp32, bf16, fp16"),
        ("patch: 50", "not a multiple of the scale 4; use 48 or 52"),
        ("batch: 16\naccumulate: 3", "has no 3 equal parts"),
        ("schedule: multistep", "needs milestones"),
        ("milestones: [100]", "Milestones need `schedule=multistep`"),
        ("max_time: soon", "as in 45s, 90m, 1h30m or 2d"),
        ("compile: 1", "should be true or false"),
        ("photos: 5", "should be a string"),
        ("degradation: foto", "should be one of bicubic, johnson, photo"),
        ("val_split: 1.0", "below 1"),
        ("[1, 2]", "should be a mapping"),
        ("{", "is not YAML"),
    ],
)
def test_invalid_settings_are_rejected(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=sentence):
        read_yaml(path)


def test_yaml_may_write_a_small_number_without_a_dot(tmp_path: Path) -> None:
    (tmp_path / "settings.yaml").write_text("lr: 2e-3")
    assert read_yaml(tmp_path / "settings.yaml").lr == 0.002


def test_naming_one_loss_leaves_the_others_out(tmp_path: Path) -> None:
    (tmp_path / "settings.yaml").write_text("loss: {l1: 1, layers: johnson}")
    loss = read_yaml(tmp_path / "settings.yaml").loss
    assert (loss.l1, loss.pixel, loss.layers) == (1, 0, {"relu2_2": 1})


@pytest.mark.gpu
def test_a_step_on_a_gpu_moves_every_weight(crops: PhotoDataset) -> None:
    config = tiny(steps=3, precision="auto")
    trainer = Trainer(config, WeightedLoss(config.loss, None, config.generator.scale), torch.device("cuda"))
    before = [weight.clone() for weight in trainer.generator.parameters()]
    run(trainer, crops)
    assert all((old != new).any() for old, new in zip(before, trainer.generator.parameters(), strict=True))
