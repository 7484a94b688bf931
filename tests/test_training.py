"""Training: it learns, repeats itself to the bit, and goes on where it stopped."""

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
import torch
from torch import Tensor

from srcli.core.degradation import bicubic
from srcli.core.generators import Generator
from srcli.core.losses import WeightedLoss
from srcli.errors import SettingsError, SrcliError
from srcli.models import load_feature_loss, load_generator
from srcli.photos import Crops, Photos
from srcli.runs import Run
from srcli.settings import CompactSettings, JohnsonSettings, LossSettings, TrainSettings, from_mapping, read_yaml, to_mapping
from srcli.training import Diverged, Step, Training, crop_size, learning_rate, train
from srcli.validation import Scores
from tests.conftest import EXAMPLES

CPU = torch.device("cpu")
SMALL = torch.rand(1, 3, 16, 16)


def tiny(**changes: object) -> TrainSettings:
    values = {"generator": CompactSettings(scale=2, channels=8, blocks=1), "steps": 6, "batch": 2, "patch": 32, "warmup": 2}
    return TrainSettings(**(values | {"precision": "fp32"} | changes))  # type: ignore[arg-type]


def start(settings: TrainSettings) -> Training:
    feature = load_feature_loss(settings.loss.layers) if settings.loss.feature else None
    return Training(settings, WeightedLoss(settings.loss, feature, settings.generator.scale), CPU)


def batches(training: Training, photos: Photos) -> Iterator[Crops]:
    settings = training.settings
    for step in count(training.steps):
        yield photos.batch(step, seed=settings.seed, size=settings.batch, patch=crop_size(settings))


def run(training: Training, photos: Photos, until: int | None = None) -> list[Step]:
    steps: list[Step] = []
    stop = lambda: training.steps == until  # noqa: E731
    train(training, batches(training, photos), on_step=steps.append, on_save=lambda: None, stop=stop)
    return steps


def weights(training: Training) -> list[Tensor]:
    return [*training.generator.state_dict().values(), *training.average.state_dict().values()]


@pytest.fixture
def crops(photos: Path) -> Photos:
    return Photos.read(photos, smallest=40)


def test_it_learns() -> None:
    """After 150 steps on photographs, crops that it has not seen are enlarged better than bilinearly, where it started."""
    photos = Photos.read(EXAMPLES / "photos", smallest=40)
    training = start(tiny(steps=150, lr=5e-3, batch=8))
    unseen = torch.from_numpy(photos.batch(0, seed=99, size=32, patch=40).hr).permute(0, 3, 1, 2).float() / 255

    def error() -> float:
        return torch.nn.functional.mse_loss(training.average(bicubic(unseen, 2)), unseen).item()

    before = error()
    run(training, photos)
    assert error() < 0.9 * before


@pytest.mark.parametrize(
    "generator", [CompactSettings(scale=3, channels=8, blocks=1), JohnsonSettings(scale=2, channels=8, blocks=1)]
)
@pytest.mark.parametrize("loss", [LossSettings(pixel=1), LossSettings(pixel=0.5, feature=0.1, layers={"relu2_2": 1.0})])
def test_every_weight_moves(crops: Photos, generator: CompactSettings | JohnsonSettings, loss: LossSettings) -> None:
    training = start(tiny(generator=generator, loss=loss, patch=48, steps=3))
    before = [weight.clone() for weight in training.generator.parameters()]
    run(training, crops)
    assert all((old != new).any() for old, new in zip(before, training.generator.parameters(), strict=True))


def test_the_same_seed_gives_the_same_weights(crops: Photos) -> None:
    one, other, third = start(tiny()), start(tiny()), start(tiny(seed=1))
    for training in (one, other, third):
        run(training, crops)
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(weights(one), weights(other), strict=True))
    assert not all(torch.equal(mine, theirs) for mine, theirs in zip(weights(one), weights(third), strict=True))


def test_a_resumed_run_ends_with_the_same_bits(tmp_path: Path, crops: Photos) -> None:
    settings = tiny(generator=JohnsonSettings(scale=2, channels=8, blocks=1))  # batch normalisation has state of its own
    whole = start(settings)
    run(whole, crops)
    part = start(settings)
    assert run(part, crops, until=3)[-1].number == 3
    folder = Run(tmp_path / "run")
    folder.create(settings, "srcli train")
    folder.save(part, {}, SMALL)
    resumed = start(settings)
    resumed.restore(folder.load())
    assert run(resumed, crops)[0].number == 4
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(weights(whole), weights(resumed), strict=True))


def test_pictures_made_ahead_are_those_made_in_their_step(crops: Photos) -> None:
    settings = tiny(degradation="photo", patch=16)
    photos = Photos.read(EXAMPLES / "photos", smallest=90)
    ahead, each = start(settings), start(settings)
    run(ahead, photos)
    stream = batches(each, photos)
    for _ in range(settings.steps):
        each.step(next(stream))
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(weights(ahead), weights(each), strict=True))


def test_an_update_is_the_same_in_one_part_and_in_four(crops: Photos) -> None:
    whole, parts = start(tiny(batch=4, steps=2)), start(tiny(batch=4, steps=2, accumulate=4))
    for training in (whole, parts):
        run(training, crops)
    for mine, theirs in zip(weights(whole), weights(parts), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("degradation", ["johnson", "photo"])
def test_it_learns_from_every_degradation(crops: Photos, degradation: str) -> None:
    steps = run(start(tiny(degradation=degradation, steps=3, patch=16)), Photos.read(EXAMPLES / "photos", smallest=90))
    assert len({step.total for step in steps}) == 3


def test_the_model_file_is_the_averaged_generator_folded(tmp_path: Path, crops: Photos) -> None:
    training = start(tiny())
    run(training, crops)
    folder = Run(tmp_path / "run")
    folder.create(training.settings, "srcli train")
    folder.save(training, {"note": "kept"}, SMALL)
    lr = torch.rand(1, 3, 9, 9)
    torch.testing.assert_close(load_generator(folder.model)(lr), training.average(lr), atol=1e-5, rtol=0)
    assert sorted(path.name for path in folder.folder.iterdir()) == ["checkpoint.pt", "model.safetensors", "settings.yaml"]


def test_the_average_lies_between_the_first_weights_and_the_last(crops: Photos) -> None:
    training = start(tiny(ema=0.5, steps=1))
    before = training.generator.head.bias.clone()
    run(training, crops)
    torch.testing.assert_close(training.average.head.bias, 0.9 * training.generator.head.bias + 0.1 * before)


def test_first_weights_from_a_model_of_another_scale(tmp_path: Path, crops: Photos) -> None:
    source = start(tiny(generator=CompactSettings(scale=4, channels=8, blocks=1)))
    target = start(tiny())
    target.start_from(source.generator.folded())
    torch.testing.assert_close(target.average.head.weight, source.generator.head.weight)
    with pytest.raises(SrcliError, match="compact with 8 channels and 1 blocks, and compact with 8 channels and 2 blocks"):
        start(tiny(generator=CompactSettings(scale=2, channels=8, blocks=2))).start_from(source.generator.folded())


@pytest.mark.parametrize("scale", [4, 8])
def test_first_weights_of_another_architecture_are_refused(scale: int) -> None:
    source = start(tiny(generator=CompactSettings(scale=4, channels=8, blocks=1)))
    with pytest.raises(SrcliError, match="those of compact with 8 channels and 1 blocks, and johnson with 8 channels"):
        start(tiny(generator=JohnsonSettings(scale=scale, channels=8, blocks=1))).start_from(source.generator.folded())


def test_a_step_whose_loss_is_not_finite_is_skipped_and_counted(crops: Photos) -> None:
    training = start(tiny())
    run(training, crops, until=2)
    before = [weight.clone() for weight in weights(training)]
    bias = training.generator.tail.bias
    sound = bias.detach().clone()
    torch.nn.init.constant_(bias, float("nan"))
    step = training.step(next(batches(training, crops)))
    assert (step.skipped, training.skipped, training.in_a_row, training.steps) == (True, 1, 1, 3)
    with torch.no_grad():
        bias.copy_(sound)
    assert all(torch.equal(old, new) for old, new in zip(before, weights(training), strict=True))
    assert not training.step(next(batches(training, crops))).skipped
    assert (training.skipped, training.in_a_row) == (1, 0)


def test_a_loss_that_persists_in_not_being_finite_ends_training(crops: Photos) -> None:
    training = start(tiny(steps=100))
    torch.nn.init.constant_(training.generator.tail.bias, float("nan"))
    before = training.average.head.weight.clone()
    with pytest.raises(Diverged, match="10 steps in a row, the last of them step 10") as error:
        run(training, crops)
    assert error.value.crops.hr.shape == (2, 40, 40, 3)
    assert torch.equal(training.average.head.weight, before)


def test_weights_that_are_not_finite_are_never_written(tmp_path: Path, crops: Photos) -> None:
    training = start(tiny())
    folder = Run(tmp_path / "run")
    folder.create(training.settings, "srcli train")
    folder.save(training, {}, SMALL)
    written = folder.checkpoint.read_bytes()
    torch.nn.init.constant_(training.average.tail.bias, float("inf"))
    with pytest.raises(SrcliError, match="not finite after step 0"):
        folder.save(training, {}, SMALL)
    assert folder.checkpoint.read_bytes() == written


def test_patience_ends_training_and_the_best_is_told(crops: Photos) -> None:
    """Validation losses 5, 4, 4, 3, 3, 3 at steps 0 to 5: two without a better one are over at step 5."""
    losses = iter([5.0, 4.0, 4.0, 3.0, 3.0, 3.0])
    told: list[bool] = []
    training = start(tiny(steps=50, val_every=1, patience=2))

    def validate(generator: Generator) -> Scores:
        assert generator is training.average
        return Scores(psnr=30, ssim=0.9, loss=next(losses))

    ending = train(
        training,
        batches(training, crops),
        on_step=lambda _step: None,
        on_save=lambda: None,
        validate=validate,
        on_scores=lambda _scores, improved: told.append(improved),
    )
    assert (ending, training.steps, training.best) == ("patience", 5, 3.0)
    assert told == [True, True, False, True, False, False]


def test_the_learning_rate_warms_up_and_follows_a_cosine() -> None:
    settings = tiny(lr=1.0, warmup=10, steps=110)
    rates = [learning_rate(settings, step) for step in (0, 9, 10, 60, 110)]
    assert rates == pytest.approx([0.1, 1.0, 1.0, 0.505, 0.01])


def test_the_learning_rate_is_halved_at_milestones_or_constant() -> None:
    settings = tiny(lr=1.0, warmup=0, schedule="multistep", milestones=(10, 20))
    assert [learning_rate(settings, step) for step in (9, 10, 19, 20)] == [1.0, 0.5, 0.5, 0.25]
    assert learning_rate(tiny(lr=1.0, warmup=0, schedule="constant"), 10**6) == 1.0


def test_weight_decay_is_adamws() -> None:
    training = start(tiny(optimizer="adamw", weight_decay=0.1))
    assert isinstance(training.optimizer, torch.optim.AdamW)
    assert training.optimizer.defaults["weight_decay"] == 0.1


def test_a_crop_has_room_for_the_reduction() -> None:
    assert crop_size(tiny()) == 32 + 2 * 2 * 2
    assert crop_size(tiny(lr_data="pairs")) == 32


def test_settings_survive_yaml(tmp_path: Path) -> None:
    from srcli.settings import write_yaml

    settings = tiny(loss=LossSettings(pixel=0.5, feature=2, layers={"relu2_2": 0.5, "conv5_1": 1.0}), lr=1e-4)
    (tmp_path / "settings.yaml").write_text(write_yaml(settings))
    assert read_yaml(tmp_path / "settings.yaml") == settings
    assert from_mapping(TrainSettings, to_mapping(settings), "here") == settings


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("stepps: 5", "unknown key 'stepps'. Did you mean steps"),
        ("generator: {chanels: 5}", "generator has an unknown key 'chanels'. Did you mean channels"),
        ("generator: {architecture: jonson}", "no generator 'jonson'. Did you mean johnson"),
        ("loss: {layers: {relu9_9: 1}}", "no layer relu9_9"),
        ("loss: {pixel: -1}", "it must be at least 0"),
        ("steps: many", "steps is 'many'; it should be a whole number"),
        ("steps: 0", "it must be at least 1"),
        ("lr: -0.1", "above 0"),
        ("ema: 1", "below 1"),
        ("precision: fp8", "should be one of auto, fp32, bf16, fp16"),
        ("patch: 50", "no multiple of the scale 4; use 48 or 52"),
        ("batch: 16\naccumulate: 3", "no 3 equal parts"),
        ("schedule: multistep", "no milestones"),
        ("milestones: [100]", "belong to the multistep schedule"),
        ("milestones: 100", "should be a list of whole numbers"),
        ("max_time: soon", "as in 45s, 90m, 8h or 2d"),
        ("compile: 1", "should be true or false"),
        ("photos: 5", "should be words"),
        ("degradation: foto", "should be one of bicubic, johnson, photo"),
        ("val_split: 1.0", "below 1"),
        ("[1, 2]", "should hold names and values"),
        ("{", "is not YAML"),
    ],
)
def test_settings_that_cannot_be_are_refused(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text(text)
    with pytest.raises(SettingsError, match=sentence):
        read_yaml(path)


def test_yaml_may_write_a_small_number_without_a_dot(tmp_path: Path) -> None:
    (tmp_path / "settings.yaml").write_text("lr: 2e-3")
    assert read_yaml(tmp_path / "settings.yaml").lr == 0.002


def test_naming_one_loss_leaves_the_others_out(tmp_path: Path) -> None:
    (tmp_path / "settings.yaml").write_text("loss: {l1: 1, layers: johnson}")
    loss = read_yaml(tmp_path / "settings.yaml").loss
    assert (loss.l1, loss.pixel, loss.layers) == (1, 0, {"relu2_2": 1})


@pytest.mark.gpu
def test_a_step_on_a_gpu_moves_every_weight(crops: Photos) -> None:
    settings = tiny(steps=3, precision="auto")
    training = Training(settings, WeightedLoss(settings.loss, None, settings.generator.scale), torch.device("cuda"))
    before = [weight.clone() for weight in training.generator.parameters()]
    run(training, crops)
    assert all((old != new).any() for old, new in zip(before, training.generator.parameters(), strict=True))
