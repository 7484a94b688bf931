"""Photographs: problems are reported by file, crops depend on seed and step only, and images are decoded once."""

import os
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from srcli.config import TrainConfig
from srcli.core.degradation import bicubic
from srcli.errors import SrcliError
from srcli.io.files import user_cache
from srcli.io.image import Image
from srcli.io.write import write_image
from srcli.training.dataset import PhotoDataset, TrainBatch, prefetched

Pixels = Callable[..., np.ndarray]


@pytest.fixture
def crops(photos: Path) -> PhotoDataset:
    return PhotoDataset.read(photos, smallest=40)


def test_the_crops_do_not_depend_on_what_came_before(crops: PhotoDataset) -> None:
    def batch(step: int, seed: int) -> np.ndarray:
        return crops.batch(step, seed=seed, size=4, patch=40).hr

    first = batch(5, 3)
    batch(4, 3)
    np.testing.assert_array_equal(batch(5, 3), first)
    assert (batch(6, 3) != first).any()
    assert (batch(5, 4) != first).any()


def test_two_processes_share_the_batch_of_one(crops: PhotoDataset) -> None:
    whole = crops.batch(7, seed=1, size=6, patch=40)
    parts = [crops.batch(7, seed=1, size=6, patch=40, part=slice(start, start + 3)) for start in (0, 3)]
    np.testing.assert_array_equal(np.concatenate([part.hr for part in parts]), whole.hr)
    np.testing.assert_array_equal(np.concatenate([part.augmentations for part in parts]), whole.augmentations)


def test_crops_are_augmented_in_every_way() -> None:
    from tests.training.test_trainer import start, tiny

    corner = np.zeros((40, 40, 3), dtype=np.uint8)
    corner[:4, 4:8] = 255
    batch = PhotoDataset(("corner.png",), (corner,)).batch(0, seed=0, size=200, patch=40)
    _, hr = start(tiny(batch=200)).pair(batch)  # N x 3 x 32 x 32, the rim of 4 pixels cut off
    assert hr.shape[-2:] == (32, 32)
    corner[:] = 0
    corner[4:8, 8:12] = 255
    batch = PhotoDataset(("corner.png",), (corner,)).batch(0, seed=0, size=200, patch=40)
    _, hr = start(tiny(batch=200)).pair(batch)
    assert len({tuple(np.argwhere(crop[0].numpy() == 1)[0]) for crop in hr}) == 8


def test_problems_with_photographs_are_found_first_and_reported_by_file(photos: Path) -> None:
    (photos / "broken.png").write_text("no image")
    with pytest.raises(SrcliError, match=r"broken\.png is not an image") as error:
        PhotoDataset.read(photos, smallest=90, strict=True)
    assert "one.png is 96x80 pixels; training needs at least 90x90" in str(error.value)


def test_unusable_images_and_results_are_left_out_and_named(photos: Path, pixels: Pixels) -> None:
    (photos / "broken.png").write_text("no image")
    write_image(Image(pixels(20, 200)), photos / "low.png")
    write_image(Image(pixels(160, 192)), photos / "one_x2.png")
    for name in (".hidden.png", "below/._two.jpg", ".notes.txt", "run/strip.png", "run/samples/00000000.jpg"):
        (photos / name).parent.mkdir(parents=True, exist_ok=True)
        (photos / name).write_bytes(b"")
    (photos / "run" / "settings.yaml").write_text("# srcli train photos -o photos/run\n# srcli 0.1, torch 2\nphotos: photos\n")
    (photos / "below" / "settings.yaml").write_text("of another program")
    for cache in ("none", "auto", "auto"):
        read = PhotoDataset.read(photos, smallest=40, cache=cache)
        assert read.names == ("below/three.png", "one.png", "two.png")
        assert [sentence.split()[0].split("/")[-1] for sentence in read.left_out] == ["broken.png", "low.png"]
        assert read.ignored == {"hidden file": 2, "result of srcli upscale": 1, "file of srcli train": 2}
    with pytest.raises(SrcliError, match=r"one\.png is 96x80 pixels"):  # none is left
        PhotoDataset.read(photos, smallest=900)


def test_images_of_every_kind_are_read_as_rgb(tmp_path: Path) -> None:
    from PIL import Image as PILImage

    for mode in ("1", "L", "LA", "P", "RGBA", "CMYK", "I;16"):
        ending = "tif" if mode in ("CMYK", "I;16") else "png"
        PILImage.new("RGB", (40, 48), (200, 60, 60)).convert("I" if mode == "I;16" else mode).convert(mode).save(
            tmp_path / f"{mode.replace(';', '')}.{ending}"
        )
    photos = PhotoDataset.read(tmp_path, smallest=40)
    assert {(image.shape, image.dtype.name) for image in photos.images} == {((48, 40, 3), "uint8")}


def test_held_out_photographs_are_not_trained_on(tmp_path: Path, pixels: Pixels) -> None:
    for number in range(10):
        write_image(Image(pixels(48, 48, seed=number)), tmp_path / f"{number}.png")
    photos = PhotoDataset.read(tmp_path, smallest=40)
    trainer, held_out = photos.split(0.3, seed=0)
    assert (len(trainer), len(held_out)) == (7, 3)
    assert {*trainer.names, *held_out.names} == set(photos.names)
    assert photos.split(0.3, seed=0)[1].names == held_out.names
    assert photos.split(0.3, seed=1)[1].names != held_out.names
    assert len(photos.split(0.001, seed=0)[1]) == 1


def test_a_single_photograph_cannot_be_split(tmp_path: Path, pixels: Pixels) -> None:
    write_image(Image(pixels(48, 48)), tmp_path / "only.png")
    with pytest.raises(SrcliError, match="There is only 1 photograph, and 1 would be held out"):
        PhotoDataset.read(tmp_path, smallest=40).split(0.02, seed=0)


def test_an_epoch_is_the_number_of_crops_without_overlap() -> None:
    photos = PhotoDataset(("a", "b"), (np.zeros((100, 70, 3), np.uint8), np.zeros((33, 64, 3), np.uint8)))
    assert photos.crops(32) == 3 * 2 + 1 * 2


# the cache


def counted(folder: Path, cache: str) -> tuple[PhotoDataset, int]:
    """The photographs, and how many of them were decoded."""
    decoded: list[None] = []
    photos = PhotoDataset.read(folder, smallest=40, cache=cache, on_image=lambda: decoded.append(None))
    return photos, len(decoded)


@pytest.mark.parametrize("where", ["auto", "folder"])
def test_images_are_decoded_once_and_cached_unchanged(photos: Path, tmp_path: Path, where: str) -> None:
    cache = "auto" if where == "auto" else str(tmp_path / "elsewhere")
    first, decoded = counted(photos, cache)
    second, again = counted(photos, cache)
    plain, _ = counted(photos, "none")
    assert (decoded, again) == (3, 0)
    for mine, theirs, true in zip(first.images, second.images, plain.images, strict=True):
        assert not theirs.flags.writeable  # nothing but the file's own pages
        np.testing.assert_array_equal(mine, true)
        np.testing.assert_array_equal(theirs, true)
    assert any((user_cache() if where == "auto" else tmp_path / "elsewhere").glob("*.pixels"))


def test_changed_new_and_missing_files_are_detected(photos: Path, pixels: Pixels, tmp_path: Path) -> None:
    cache = str(tmp_path / "cache")
    counted(photos, cache)
    write_image(Image(pixels(80, 96, seed=9)), photos / "one.png", overwrite=True)
    changed, decoded = counted(photos, cache)
    assert decoded == 3
    np.testing.assert_array_equal(changed.images[changed.names.index("one.png")], pixels(80, 96, seed=9))
    write_image(Image(pixels(80, 96, seed=10)), photos / "four.png")
    assert counted(photos, cache)[1] == 4
    (photos / "two.png").unlink()
    assert counted(photos, cache)[1] == 3
    assert len(list((tmp_path / "cache").iterdir())) == 2  # the older states are gone
    os.utime(photos / "four.png", ns=(0, 0))
    assert counted(photos, cache)[1] == 3


def test_a_truncated_cache_is_created_again(photos: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    counted(photos, str(cache))
    pixels = next(cache.glob("*.pixels"))
    pixels.write_bytes(pixels.read_bytes()[:-1])
    assert counted(photos, str(cache))[1] == 3
    assert counted(photos, str(cache))[1] == 0


@pytest.mark.parametrize(
    "index",
    [
        b"",
        b"[",
        b"null",
        b"7",
        b"{}",
        b'{"a": 1}',
        b"[[80, 96]]",
        b'["abc"]',
        b"[[80, 96, 1.5]]",
        b"[[-80, -96, 1]]",
        b"[[80, 96, 1], [80, 96, 1], [80, 96, 1]]",
        b"\xff\xfe",
        b"[" * 100_000,
    ],
)
def test_a_cache_with_a_damaged_index_is_created_again(photos: Path, tmp_path: Path, index: bytes) -> None:
    cache = tmp_path / "cache"
    whole, _ = counted(photos, str(cache))
    next(cache.glob("*.json")).write_bytes(index)
    again, decoded = counted(photos, str(cache))
    assert decoded == 3
    assert all(np.array_equal(one, other) for one, other in zip(whole.images, again.images, strict=True))
    assert counted(photos, str(cache))[1] == 0


@pytest.mark.parametrize("place", [0, 30_000, -1])
def test_a_cache_with_a_changed_byte_is_created_again(photos: Path, tmp_path: Path, place: int) -> None:
    cache = tmp_path / "cache"
    whole = [image.copy() for image in counted(photos, str(cache))[0].images]
    pixels = next(cache.glob("*.pixels"))
    content = bytearray(pixels.read_bytes())
    content[place] ^= 1
    pixels.write_bytes(content)
    again, decoded = counted(photos, str(cache))
    assert decoded == 3
    assert all(np.array_equal(one, other) for one, other in zip(whole, again.images, strict=True))


def test_a_folder_that_was_not_used_for_long_is_removed_from_the_cache(photos: Path, pixels: Pixels, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    counted(photos, str(cache))
    old = set(cache.iterdir())
    (mine := cache / "mine.json").write_text("{}")
    for path in (*old, mine):
        os.utime(path, (0, 0))
    counted(photos, str(cache))
    assert {*old, mine} <= set(cache.iterdir())  # used just now
    for path in (*old, mine):
        os.utime(path, (0, 0))
    write_image(Image(pixels(80, 96)), tmp_path / "other" / "one.png")
    counted(tmp_path / "other", str(cache))
    assert not old & set(cache.iterdir())
    assert mine.exists()


def test_incomplete_files_of_a_killed_process_are_removed_from_the_cache(photos: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / ".0123.srcli-0123abcd.part.pixels").write_bytes(b"half")
    counted(photos, str(cache))
    assert sorted(path.suffix for path in cache.iterdir()) == [".json", ".pixels"]


def test_a_cache_that_cannot_be_written_is_an_error_with_advice(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SrcliError, match="set `cache` to another folder, or use `cache=none`"):
        counted(photos, str(tmp_path / "file"))


# pairs


@pytest.fixture
def pairs(tmp_path: Path, pixels: Pixels) -> tuple[Path, Path]:
    """HR images of 80x96, and LR images of every second row and column."""
    for number, name in enumerate(("a", "b")):
        hr = pixels(80, 96, seed=number)
        write_image(Image(hr), tmp_path / "hr" / f"{name}.png")
        write_image(Image(hr[::2, ::2]), tmp_path / "lr" / f"{name}{'x2' if number else ''}.png")
    return tmp_path / "hr", tmp_path / "lr"


def test_a_crop_of_a_pair_is_the_same_region_in_both(pairs: tuple[Path, Path]) -> None:
    photos = PhotoDataset.read(pairs[0], smallest=32, lr_data=pairs[1], scale=2)
    batch = photos.batch(0, seed=0, size=20, patch=32)
    assert batch.lr is not None
    np.testing.assert_array_equal(batch.lr, batch.hr[:, ::2, ::2])


def test_pairs_replace_the_degradation(pairs: tuple[Path, Path]) -> None:
    from tests.training.test_trainer import start, tiny

    photos = PhotoDataset.read(pairs[0], smallest=32, lr_data=pairs[1], scale=2)
    lr, hr = start(tiny(lr_data=str(pairs[1]), batch=20)).pair(photos.batch(0, seed=0, size=20, patch=32))
    assert (lr == hr[..., ::2, ::2]).flatten(1).all(dim=1).any()  # of those that are not mirrored
    assert (lr - bicubic(hr, 2)).abs().max() > 0.01


def test_pairs_that_differ_by_less_than_the_scale_are_cropped(pairs: tuple[Path, Path], pixels: Pixels) -> None:
    hr = pixels(81, 97, seed=5)
    for height, width in ((40, 48), (41, 49)):  # rounded down and up
        write_image(Image(hr), pairs[0] / "c.png", overwrite=True)
        lr = np.pad(hr, ((0, 1), (0, 1), (0, 0)), mode="edge")[::2, ::2][:height, :width]
        write_image(Image(lr), pairs[1] / "c.png", overwrite=True)
        photos = PhotoDataset.read(pairs[0], smallest=32, lr_data=pairs[1], scale=2)
        assert photos.lr_images is not None
        assert photos.images[2].shape == (80, 96, 3)
        np.testing.assert_array_equal(photos.lr_images[2], photos.images[2][::2, ::2])


def test_mismatched_pairs_are_reported(pairs: tuple[Path, Path], pixels: Pixels) -> None:
    write_image(Image(pixels(40, 47)), pairs[1] / "a.png", overwrite=True)
    with pytest.raises(SrcliError, match=r"a\.png is 47x40 pixels and its photograph is 96x80; it must be 2 times"):
        PhotoDataset.read(pairs[0], smallest=32, lr_data=pairs[1], scale=2, strict=True)
    (pairs[1] / "a.png").unlink()
    with pytest.raises(SrcliError, match=r"a\.png has no LR image: .* contains neither a nor ax2"):
        PhotoDataset.read(pairs[0], smallest=32, lr_data=pairs[1], scale=2, strict=True)


def test_the_config_in_a_model_file_has_no_paths() -> None:
    config = TrainConfig(photos="photos", output="run", lr_data="small", cache="cache", steps=7).portable()
    assert config == TrainConfig(steps=7)


def test_prefetched_batches_are_in_order(crops: PhotoDataset) -> None:
    def make(step: int) -> TrainBatch:
        return crops.batch(step, seed=0, size=2, patch=40)

    for step, batch in enumerate(islice(prefetched(make, 5), 4), start=5):
        np.testing.assert_array_equal(batch.hr, make(step).hr)
