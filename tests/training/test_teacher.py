"""Labels of a teacher: made once, found again, aligned with the photographs, and mixed with them."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from srcli.config import CompactConfig, TrainConfig
from srcli.core.degradation import bicubic, degraded_small
from srcli.errors import ConfigError, SrcliError
from srcli.models.checkpoint import load_generator
from srcli.training.cache import unused_files
from srcli.training.dataset import PhotoDataset, UnlabeledImages
from srcli.training.teacher import Teacher
from srcli.training.trainer import crop_size
from tests.conftest import CommandResult, make_model
from tests.training.test_trainer import CPU, start, tiny

Command = Callable[..., CommandResult]


@pytest.fixture
def crops(photos: Path) -> PhotoDataset:
    return PhotoDataset.read(photos, smallest=40)


def taught(teacher: Path, tmp_path: Path, **changes: object) -> TrainConfig:
    return tiny(**{"teacher": str(teacher), "cache": str(tmp_path / "cache")} | changes)


def made(teacher: Teacher, photos: PhotoDataset) -> list[tuple[int, int]]:
    """What `make` reports."""
    reports: list[tuple[int, int]] = []
    teacher.make(photos, lambda done, total: reports.append((done, total)))
    return reports


def labels_of(teacher: Teacher, photos: PhotoDataset) -> tuple[np.ndarray, ...]:
    made(teacher, photos)
    labels = teacher.labeled(photos).labels
    assert labels is not None
    return labels


def upscaled(model: Path, image: np.ndarray) -> np.ndarray:
    """What the model makes of an image at half its size, by torch: H x W x 3, in [0, 255], not rounded."""
    height, width = (side // 2 * 2 for side in image.shape[:2])
    hr = torch.tensor(image[:height, :width]).permute(2, 0, 1)[None] / 255
    with torch.no_grad():
        sr: np.ndarray = load_generator(model)(bicubic(hr, 2))[0].clamp(0, 1).permute(1, 2, 0).numpy() * 255
    return sr


def test_a_label_is_the_upscaled_photograph(crops: PhotoDataset, model: Path, tmp_path: Path) -> None:
    labels = labels_of(Teacher(taught(model, tmp_path), CPU), crops)
    for image, label in zip(crops.images, labels, strict=True):
        sr = upscaled(model, image)
        assert label.shape == sr.shape
        assert np.abs(sr - label).max() < 1.01


def test_what_the_teacher_skips_is_its_own_label(photos: Path, model: Path, tmp_path: Path) -> None:
    (photos / "drawn").mkdir()
    Image.new("RGB", (64, 47), "red").save(photos / "drawn" / "red.png")  # with a row that no LR pixel covers
    crops = PhotoDataset.read(photos, smallest=40)
    teacher = Teacher(taught(model, tmp_path, teacher_skip="drawn/*"), CPU)
    labels = dict(zip(crops.names, labels_of(teacher, crops), strict=True))
    assert len(list(teacher.folder.iterdir())) == len(crops) - 1
    red = labels.pop("drawn/red.png")
    assert (red == (255, 0, 0)).all()
    assert red.shape == (46, 64, 3)
    for name, label in labels.items():
        assert np.abs(upscaled(model, crops.images[crops.names.index(name)]) - label).max() < 1.01


def test_a_pattern_that_skips_nothing_is_refused(crops: PhotoDataset, model: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"fits `teacher_skip=drawing/\*`; use one such as {crops.names[0]}\."):
        made(Teacher(taught(model, tmp_path, teacher_skip="drawing/*"), CPU), crops)
    with pytest.raises(ConfigError, match="`teacher_skip` needs `teacher`, without `unlabeled`"):
        tiny(teacher_skip="drawn/*")
    with pytest.raises(ConfigError, match="without `unlabeled`"):
        tiny(teacher_skip="drawn/*", teacher="any", unlabeled="half")


@pytest.mark.parametrize("scale", [3, 4])
def test_the_label_of_a_larger_scale_is_downscaled(crops: PhotoDataset, scale: int, tmp_path: Path) -> None:
    """As Pillow does it, and to the size of the photograph, which is aligned with it."""
    larger = make_model(tmp_path / "larger.safetensors", scale=scale)
    teacher = Teacher(taught(larger, tmp_path), CPU)
    for image, label in zip(crops.images, labels_of(teacher, crops), strict=True):
        height, width = (side // 2 * 2 for side in image.shape[:2])
        sr = upscaled(larger, image).round().astype(np.uint8)
        expected = np.asarray(Image.fromarray(sr).resize((width, height), Image.Resampling.LANCZOS)).astype(int)
        assert label.shape == (height, width, 3)
        assert np.abs(expected[4:-4, 4:-4] - label[4:-4, 4:-4]).max() <= 2
    other = Teacher(taught(larger, tmp_path, generator=CompactConfig(scale=scale, channels=8, blocks=1), patch=36), CPU)
    assert other.folder != teacher.folder


@pytest.mark.parametrize("degradation", ["bicubic", "photo"])
@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_the_target_mixes_photograph_and_label(crops: PhotoDataset, degradation: str, share: float) -> None:
    """A label that is the inverted photograph shows by value that crops, turns and margins agree."""
    config = tiny(degradation=degradation, teacher="any", teacher_weight=share, batch=8)
    images = tuple(np.tile(image, (4, 4, 1)) for image in crops.images)
    inverted = PhotoDataset(crops.names, images, scale=2, labels=tuple(255 - image for image in images))
    batch = inverted.batch(0, seed=0, size=8, patch=crop_size(config))
    lr, target = start(config).pair(batch, 0)
    lr_alone, truth = start(config).pair(replace(batch, labels=None), 0)
    torch.testing.assert_close(lr, lr_alone)
    torch.testing.assert_close(target, (1 - share) * truth + share * (1 - truth))


def test_labels_are_made_once_and_only_the_missing_ones(crops: PhotoDataset, model: Path, tmp_path: Path) -> None:
    """As after a process that was killed while it made them."""
    config = taught(model, tmp_path)
    total = len(crops)
    assert made(Teacher(config, CPU), crops) == [(done, total) for done in range(total + 1)]
    assert made(Teacher(config, CPU), crops) == []
    files = sorted(Teacher(config, CPU).folder.iterdir())
    assert len(files) == total
    files[0].unlink()
    kept = files[1].stat().st_mtime_ns
    assert made(Teacher(config, CPU), crops) == [(total - 1, total), (total, total)]
    assert files[0].exists()
    assert files[1].stat().st_mtime_ns == kept


def test_two_processes_make_all_labels_without_overlap(crops: PhotoDataset, model: Path, tmp_path: Path) -> None:
    teacher = Teacher(taught(model, tmp_path), CPU)
    counts = []
    for rank in range(2):
        teacher.make(crops, lambda done, _total: counts.append(done), slice(rank, None, 2))
    assert len(list(teacher.folder.iterdir())) == len(crops)
    assert sum(1 for done in counts if done) == len(crops)


def test_another_teacher_and_changed_pixels_have_other_labels(crops: PhotoDataset, model: Path, tmp_path: Path) -> None:
    made(Teacher(taught(model, tmp_path), CPU), crops)
    changed = PhotoDataset(crops.names, (crops.images[0] ^ 1, *crops.images[1:]))
    assert len(made(Teacher(taught(model, tmp_path), CPU), changed)) == 2
    other = tmp_path / "other" / model.name
    other.parent.mkdir()
    make_model(other, scale=2)
    content = bytearray(other.read_bytes())
    content[-1] ^= 1  # of the last weight
    other.write_bytes(content)
    assert len(made(Teacher(taught(other, tmp_path), CPU), crops)) == len(crops) + 1


def test_a_damaged_label_is_named(crops: PhotoDataset, model: Path, tmp_path: Path) -> None:
    teacher = Teacher(taught(model, tmp_path), CPU)
    made(teacher, crops)
    label = sorted(teacher.folder.iterdir())[0]
    label.write_bytes(b"no image")
    with pytest.raises(SrcliError, match=f"{label}, a label of the teacher, is damaged. Delete it; it will be made again."):
        teacher.labeled(crops)


def test_what_cannot_teach_is_refused(tmp_path: Path) -> None:
    model = make_model(tmp_path / "same.safetensors", scale=2)
    generator = CompactConfig(scale=4, channels=8, blocks=1)
    with pytest.raises(ConfigError, match=r"is an x2 model, but the generator is x4; choose a model of x4 or more for"):
        Teacher(taught(model, tmp_path, generator=generator), CPU)
    with pytest.raises(ConfigError, match="set `cache` to a folder instead of none"):
        Teacher(taught(model, tmp_path, cache="none"), CPU)
    with pytest.raises(ConfigError, match=r"teacher_weight is 1\.5"):
        tiny(teacher_weight=1.5)


def test_the_teacher_of_pairs_sees_their_lr_images(photos: Path, crops: PhotoDataset, model: Path, tmp_path: Path) -> None:
    dark = tuple(np.zeros((image.shape[0] // 2, image.shape[1] // 2, 3), np.uint8) for image in crops.images)
    even = tuple(image[: 2 * len(lr), : 2 * lr.shape[1]] for image, lr in zip(crops.images, dark, strict=True))
    pairs = PhotoDataset(crops.names, even, dark, scale=2)
    teacher = Teacher(taught(model, tmp_path, lr_data="pairs"), CPU)
    teacher.make(pairs, lambda _done, _total: None)
    labels = teacher.labeled(pairs).labels
    assert labels is not None
    with torch.no_grad():
        black = load_generator(model)(torch.zeros(1, 3, 16, 16))[0, :, 8:-8, 8:-8].clamp(0, 1) * 255
    for label in labels:
        np.testing.assert_allclose(label[8:24, 8:24], black.permute(1, 2, 0).numpy(), atol=1.01)
    batch = teacher.labeled(pairs).batch(0, seed=0, size=2, patch=32)
    lr, target = start(tiny(teacher="any", teacher_weight=1.0, lr_data="pairs")).pair(batch)
    assert lr.shape[-1] * 2 == target.shape[-1] == 32


def test_a_run_with_a_teacher_resumes_to_the_bit(srcli: Command, photos: Path, model: Path, tmp_path: Path) -> None:
    size = ["--channels", 8, "--blocks", 1, "--scale", 2, "--patch", 32, "--batch", 2, "--device", "cpu"]
    words = ["train", photos, *size, "--teacher", model, "--unlabeled", "half", "--steps", 4, "--val-split", 0]
    first = srcli(*words, "--max-time", "0.001s", "-o", tmp_path / "run")
    assert first.exit_code == 0, first.stderr
    assert "The teacher has labels to make for 6 of 6 images." in first.stderr
    again = srcli(*words, "-o", tmp_path / "run")
    assert "continuing it" in again.stderr
    assert "labels to make" not in again.stderr
    assert srcli(*words, "-o", tmp_path / "whole").exit_code == 0
    one, other = (load_generator(tmp_path / run / "model.safetensors").state_dict().values() for run in ("run", "whole"))
    assert all(torch.equal(weight, same) for weight, same in zip(one, other, strict=True))


def with_halves(photos: PhotoDataset, config: TrainConfig) -> PhotoDataset:
    teacher = Teacher(replace(config, unlabeled="half"), CPU)
    photos = teacher.with_unlabeled(photos)
    teacher.make(photos, lambda _done, _total: None)
    return teacher.labeled(photos)


def test_only_the_teacher_labels_photographs_at_half_their_size(
    crops: PhotoDataset, photos: Path, model: Path, tmp_path: Path
) -> None:
    config = taught(model, tmp_path, photos=str(photos), batch=16, teacher_weight=0.25)
    labeled = with_halves(crops, config)
    assert labeled.unlabeled is not None
    generator = load_generator(model)
    for image, half, label in zip(crops.images, labeled.unlabeled.images, labeled.unlabeled.labels, strict=True):
        hr = torch.tensor(image).permute(2, 0, 1)[None] / 255
        lr = bicubic(hr, 2)
        np.testing.assert_allclose(half, lr[0].permute(1, 2, 0).numpy() * 255, atol=0.51)
        with torch.no_grad():
            sr = generator(lr)[0].clamp(0, 1).permute(1, 2, 0).numpy() * 255
        assert np.abs(sr - label).max() < 1.01
    batch = labeled.batch(0, seed=0, size=16, patch=crop_size(config))
    assert batch.unlabeled is not None
    assert 2 < batch.unlabeled.sum() < 14
    lr, target = start(config).pair(replace(batch, augmentations=np.zeros((16, 3), bool)), 0)
    with torch.no_grad():
        sr = generator(lr).clamp(0, 1)
    inner = (slice(None), slice(None), slice(12, -12), slice(12, -12))  # which do not depend on what surrounds a crop
    difference = (sr - target)[inner].abs().amax(dim=(1, 2, 3))
    assert (difference[torch.from_numpy(batch.unlabeled)] < 0.006).all()  # the label alone, aligned with its input
    assert (difference[~torch.from_numpy(batch.unlabeled)] > 0.006).all()  # photograph and label


@pytest.mark.parametrize("degradation", ["johnson", "photo"])
def test_the_generator_sees_unlabeled_images_degraded(crops: PhotoDataset, degradation: str) -> None:
    """White labels show by value which crops are unlabeled; the others stay as they are."""
    config = tiny(degradation=degradation, teacher="any", batch=16)
    big = tuple(np.tile(image, (4, 4, 1)) for image in crops.images)
    halves = tuple(np.tile(image, (2, 2, 1)) for image in crops.images)
    labels = tuple(np.full((2 * half.shape[0], 2 * half.shape[1], 3), 255, np.uint8) for half in halves)
    photos = PhotoDataset(crops.names, big, scale=2, labels=big, unlabeled=UnlabeledImages(halves, labels))
    batch = photos.batch(0, seed=0, size=16, patch=crop_size(config))
    alone = torch.from_numpy(batch.unlabeled)
    lr, target = start(config).pair(batch, 0)
    plain, truth = start(config).pair(replace(batch, small=None, unlabeled=None), 0)
    assert (target[alone] == 1).all()
    torch.testing.assert_close(lr[~alone], plain[~alone])
    torch.testing.assert_close(target[~alone], truth[~alone])
    clean = degraded_small("bicubic", start(config).pairs.crops(batch)["small"], 2)
    rim = (clean.shape[-1] - lr.shape[-1]) // 2
    difference = (lr - clean[..., rim : rim + lr.shape[-2], rim : rim + lr.shape[-1]])[alone].abs().mean(dim=(1, 2, 3))
    assert (difference > 0.001).any()
    assert (difference < 0.15).all()


def test_unlabeled_images_need_a_teacher() -> None:
    with pytest.raises(ConfigError, match=r"^Without ground truth.*: `unlabeled` needs `teacher`, without `lr_data`\.$"):
        tiny(unlabeled="half")
    with pytest.raises(ConfigError, match="without `lr_data`"):
        tiny(unlabeled="half", teacher="any", lr_data="pairs")


def test_labels_that_no_run_used_for_long_are_removed(crops: PhotoDataset, model: Path, tmp_path: Path) -> None:
    teacher = Teacher(taught(model, tmp_path), CPU)
    made(teacher, crops)
    before = sorted(teacher.folder.iterdir())
    old = teacher.folder.parent / "another teacher" / "lr-0123.png"
    old.parent.mkdir()
    old.write_bytes(b"label")
    for path in (*before, old):
        os.utime(path, (0, 0))
    teacher.labeled(crops)
    assert sorted(teacher.folder.iterdir()) == before
    assert not old.exists()
    assert not unused_files(before)
    assert before[0].stat().st_mtime == 0  # else they would be decoded again
