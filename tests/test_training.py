"""Training: it learns, repeats itself to the bit, and goes on where it stopped."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from srcli.core.degradation import bicubic
from srcli.core.losses import WeightedLoss
from srcli.errors import SettingsError, SrcliError
from srcli.models import load_feature_loss, load_generator
from srcli.photos import Photos
from srcli.runs import Run
from srcli.settings import CompactSettings, JohnsonSettings, LossSettings, TrainSettings, from_mapping, read_yaml, to_mapping
from srcli.training import Step, Training, crop_size, learning_rate, train
from tests.conftest import EXAMPLES

CPU = torch.device("cpu")


def tiny(**changes: object) -> TrainSettings:
    values = {"generator": CompactSettings(scale=2, channels=8, blocks=1), "steps": 6, "batch": 2, "patch": 32, "warmup": 2}
    return TrainSettings(**(values | {"precision": "fp32"} | changes))  # type: ignore[arg-type]


def start(settings: TrainSettings) -> Training:
    feature = load_feature_loss(settings.loss.layers) if settings.loss.feature else None
    return Training(settings, WeightedLoss(settings.loss, feature, settings.generator.scale), CPU)


def run(training: Training, photos: Photos, until: int | None = None) -> list[Step]:
    steps: list[Step] = []
    train(training, photos, on_step=steps.append, on_save=lambda: None, stop=lambda: training.steps == until)
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
    unseen = torch.from_numpy(photos.batch(0, seed=99, count=32, patch=40)).float() / 255

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
    folder.create(settings)
    folder.save(part, {})
    resumed = start(settings)
    resumed.restore(folder.load())
    assert run(resumed, crops)[0].number == 4
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(weights(whole), weights(resumed), strict=True))


def test_the_crops_do_not_depend_on_the_loss_or_on_what_came_before(crops: Photos) -> None:
    batch = crops.batch(5, seed=3, count=4, patch=40)
    torch.rand(3)
    crops.batch(4, seed=3, count=4, patch=40)
    np.testing.assert_array_equal(crops.batch(5, seed=3, count=4, patch=40), batch)
    assert (crops.batch(6, seed=3, count=4, patch=40) != batch).any()
    assert (crops.batch(5, seed=4, count=4, patch=40) != batch).any()


def test_crops_are_turned_and_mirrored_every_way() -> None:
    corner = np.zeros((8, 8, 3), dtype=np.uint8)
    corner[0, 1] = 255
    seen = {tuple(np.argwhere(crop[0])[0]) for crop in Photos([corner]).batch(0, seed=0, count=200, patch=8)}
    assert len(seen) == 8


def test_the_model_file_is_the_averaged_generator_folded(tmp_path: Path, crops: Photos) -> None:
    training = start(tiny())
    run(training, crops)
    folder = Run(tmp_path / "run")
    folder.create(training.settings)
    folder.save(training, {"note": "kept"})
    lr = torch.rand(1, 3, 9, 9)
    torch.testing.assert_close(load_generator(folder.model)(lr), training.average(lr), atol=1e-5, rtol=0)
    assert sorted(path.name for path in folder.folder.iterdir()) == ["checkpoint.pt", "model.safetensors", "settings.yaml"]


def test_a_resumed_run_has_no_step_twice_in_its_history(tmp_path: Path, crops: Photos) -> None:
    training = start(tiny())
    folder = Run(tmp_path / "run")
    folder.create(training.settings)
    folder.log(run(training, crops, until=3))
    folder.save(training, {})
    folder.log([Step(5, 0.1, {"pixel": 0.1}, 1e-3)])  # and then the machine went down
    folder.load()
    assert [row.split(",")[0] for row in folder.history.read_text().splitlines()] == ["step", "3"]


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


def test_a_loss_that_is_not_finite_stops_before_it_reaches_the_weights(crops: Photos) -> None:
    training = start(tiny())
    torch.nn.init.constant_(training.generator.tail.bias, float("nan"))
    before = training.generator.head.weight.clone()
    with pytest.raises(SrcliError, match="The loss is nan at step 1"):
        run(training, crops)
    assert torch.equal(training.generator.head.weight, before)


def test_the_learning_rate_warms_up_and_follows_a_cosine() -> None:
    settings = tiny(lr=1.0, warmup=10, steps=110)
    rates = [learning_rate(settings, step) for step in (0, 9, 10, 60, 110)]
    assert rates == pytest.approx([0.1, 1.0, 1.0, 0.505, 0.01])


def test_a_crop_has_room_for_the_reduction() -> None:
    assert crop_size(tiny()) == 32 + 2 * 2 * 2


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
        ("precision: fp8", "should be one of auto, fp32, bf16"),
        ("patch: 50", "no multiple of the scale 4; use 48 or 52"),
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


def test_what_is_wrong_with_the_photographs_is_found_first_and_named(photos: Path) -> None:
    (photos / "broken.png").write_text("no picture")
    with pytest.raises(SrcliError, match=r"broken\.png cannot be read") as error:
        Photos.read(photos, smallest=90)
    assert "one.png is 96x80 pixels; training needs at least 90x90" in str(error.value)


@pytest.mark.gpu
def test_a_step_on_a_gpu_moves_every_weight(crops: Photos) -> None:
    settings = tiny(steps=3, precision="auto")
    training = Training(settings, WeightedLoss(settings.loss, None, settings.generator.scale), torch.device("cuda"))
    before = [weight.clone() for weight in training.generator.parameters()]
    run(training, crops)
    assert all((old != new).any() for old, new in zip(before, training.generator.parameters(), strict=True))
