"""Crops gathered at once, as on a GPU, equal those that are cut out one after the other."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from srcli.training.dataset import PhotoDataset, UnlabeledImages
from srcli.training.gather import ResidentPhotos, gather_batch, resident
from srcli.training.pairs import PairMaker
from srcli.training.trainer import crop_size
from tests.training.test_trainer import CPU, tiny

RANDOM = np.random.default_rng(0)


def image(height: int, width: int) -> np.ndarray:
    return RANDOM.integers(0, 256, (height, width, 3), dtype=np.uint8)


SIDES = ((140, 96), (104, 120), (98, 98))
PHOTOS = PhotoDataset(("one", "two", "three"), tuple(image(*sides) for sides in SIDES), scale=2)
LABELS = replace(PHOTOS, labels=tuple(image(*sides) for sides in SIDES))
KINDS = {
    "photographs": PHOTOS,
    "pairs": replace(PHOTOS, lr_images=tuple(image(height // 2, width // 2) for height, width in SIDES)),
    "labels": LABELS,
    "unlabeled": replace(
        LABELS, unlabeled=UnlabeledImages(*(tuple(image(side * k, side * k) for side in (48, 52, 56)) for k in (1, 2)))
    ),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("degradation", ["bicubic", "photo"])
def test_images_of_regions_equal_those_of_crops(kind: str, degradation: str) -> None:
    photos = KINDS[kind]
    config = tiny(degradation=degradation, batch=24, patch=32, lr_data="pairs" if kind == "pairs" else None)
    options = {"seed": 3, "size": 24, "patch": crop_size(config)}
    maker = PairMaker(config, CPU)
    maker.resident = ResidentPhotos(photos, CPU)
    regions, batch = photos.regions(7, **options), photos.batch(7, **options)
    for mine, expected in zip(maker.pair(regions, 7), PairMaker(config, CPU).pair(batch, 7), strict=True):
        assert torch.equal(mine, expected)


def test_crops_in_host_memory_are_augmented_at_once() -> None:
    config = tiny(batch=24)
    batch = PHOTOS.batch(0, seed=0, size=24, patch=40)
    expected = PairMaker(config, CPU).crops(batch)["hr"]
    assert torch.equal(gather_batch(batch.hr, torch.from_numpy(batch.augmentations), CPU) / 255, expected)


def test_photographs_stay_where_they_are_without_a_gpu() -> None:
    assert resident(PHOTOS, CPU) is None


@pytest.mark.gpu
@pytest.mark.parametrize("share", [0.4, 0.0])
def test_images_on_a_gpu_equal_those_on_the_cpu(share: float, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whether or not the photographs fit into its memory. Rounding to 256 levels may differ by one level."""
    monkeypatch.setattr("srcli.training.gather.SHARE_OF_FREE_MEMORY", share)
    device, config = torch.device("cuda"), tiny(batch=24)
    options = {"seed": 3, "size": 24, "patch": crop_size(config)}
    maker = PairMaker(config, device)
    maker.resident = resident(PHOTOS, device)
    assert (maker.resident is None) == (share == 0)
    batch = PHOTOS.batch(7, **options)
    given = batch if maker.resident is None else PHOTOS.regions(7, **options)
    for mine, expected in zip(maker.pair(given, 7), PairMaker(config, CPU).pair(batch, 7), strict=True):
        assert (mine.cpu() - expected).abs().max() <= 1.01 / 255
