"""Upscaling: tiles without seams, and every type of image."""

from collections.abc import Callable
from pathlib import Path
from threading import Barrier, Semaphore

import numpy as np
import pytest

from srcli.config import JohnsonConfig
from srcli.core.networks import build_generator
from srcli.errors import ConfigError, SrcliError
from srcli.inference.backend import Backend, load_model
from srcli.inference.tiling import BYTES_PER_PIXEL, ROWS_IN_FLIGHT, SHIPPED_BYTES_PER_PIXEL, TilePlanner
from srcli.inference.torch_backend import TorchBackend
from srcli.inference.upscale import upscale, upscale_rows
from srcli.io.image import Image, RowReader
from srcli.io.tiles import tiles
from tests.conftest import FakeBackend, make_model, repeated

Pixels = Callable[..., np.ndarray]


@pytest.fixture(scope="module", params=[2, 3, 4])
def backend(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Backend:
    return load_model(make_model(tmp_path_factory.mktemp("models") / "tiny.safetensors", scale=request.param), "cpu")


def difference(one: Image, other: Image) -> int:
    return int(np.abs(one.pixels.astype(int) - other.pixels).max())


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (15, 9), (16, 16), (17, 33), (50, 37)])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_tiled_equals_untiled(backend: Backend, pixels: Pixels, size: tuple[int, int], channels: int) -> None:
    image = Image(pixels(*size, channels))
    whole = upscale(backend, image, tile=0)
    assert whole.pixels.shape == (size[0] * backend.scale, size[1] * backend.scale, channels)
    assert difference(upscale(backend, image, tile=16), whole) <= 1


def test_several_tiles_at_once_give_the_same_image(pixels: Pixels) -> None:
    """The tiles of each band wait for each other, so that the test ends only if they are computed together."""
    together = Barrier(3, timeout=60)

    def network(lr: np.ndarray) -> np.ndarray:
        together.wait()
        return repeated(lr)

    image, done, backend = Image(pixels(64, 96, 4)), [], FakeBackend(network)
    rows = upscale_rows(
        [backend], image.rows(), profile=None, tiling=TilePlanner(32, fixed=True), at_once=3, on_pixels=done.append
    )
    expected = image.pixels.repeat(2, axis=0).repeat(2, axis=1)
    np.testing.assert_array_equal(rows.read(rows.height)[..., 3], expected[..., 3])
    assert done == [32 * 32] * 6


def test_tiles_suffice_for_several_at_once() -> None:
    rows = Image(np.zeros((64, 2000, 3), np.uint8)).rows()
    assert TilePlanner(512).shape(64, rows, FakeBackend()) == (64, 2000)
    assert TilePlanner(512).shape(64, rows, FakeBackend(), at_once=4) == (64, 500)
    assert TilePlanner(512).shape(64, rows, FakeBackend(), at_once=100) == (64, 400)  # hardly narrower than a square tile


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_bands_and_several_models_leave_no_seams(pixels: Pixels, tmp_path: Path, channels: int) -> None:
    """Two networks in sequence, the second reading the bands of the first."""
    chain = [load_model(make_model(tmp_path / f"{scale}.safetensors", scale=scale), "cpu") for scale in (2, 3)]
    image = Image(pixels(45, 37, channels))
    results = [
        upscale_rows(chain, image.rows(), profile=None, tiling=tiling)
        for tiling in (TilePlanner(0), TilePlanner(32, band=4000))
    ]
    whole, banded = (rows.read(rows.height).astype(int) for rows in results)
    assert whole.shape == (270, 222, channels)
    assert np.abs(whole - banded).max() <= 1


def test_the_next_band_is_computed_while_one_is_written(pixels: Pixels) -> None:
    calls = Semaphore(0)

    def network(lr: np.ndarray) -> np.ndarray:
        calls.release()
        return repeated(lr)

    rows = upscale_rows([FakeBackend(network)], Image(pixels(64, 16)).rows(), profile=None, tiling=TilePlanner(16, fixed=True))
    rows.read(1)
    assert all(calls.acquire(timeout=30) for _ in range(2))
    assert not calls.acquire(timeout=0.1)  # and no more than that one, as each takes memory
    rows.read(32)
    assert calls.acquire(timeout=30)


def test_an_error_in_a_later_band_is_raised(pixels: Pixels) -> None:
    tiling = TilePlanner(16, fixed=True)
    results = iter([np.zeros((3, 32, 32), np.float32)] * 2)

    def network(_lr: np.ndarray) -> np.ndarray:
        if (sr := next(results, None)) is None:
            raise SrcliError("It is broken.")
        return sr

    rows = upscale_rows([FakeBackend(network)], Image(pixels(64, 16)).rows(), profile=None, tiling=tiling)
    rows.read(64)
    with pytest.raises(SrcliError, match="It is broken"):
        rows.read(1)


def test_tiles_start_at_multiples_that_the_network_requires(pixels: Pixels) -> None:
    """A network that treats 8 x 8 squares separately, like attention windows: only aligned tiles leave no seams."""

    def network(lr: np.ndarray) -> np.ndarray:
        flat = lr.copy()
        for top in range(0, lr.shape[1], 8):
            for left in range(0, lr.shape[2], 8):
                square = (slice(None), slice(top, top + 8), slice(left, left + 8))
                flat[square] = lr[square].mean(axis=(1, 2), keepdims=True)
        return repeated(flat)

    windowed = FakeBackend(network, halo=8, tile_multiple=8)
    for channels in (3, 4):
        image = Image(pixels(61, 75, channels))
        assert difference(upscale(windowed, image, tile=20), upscale(windowed, image, tile=0)) == 0


def wide_rows() -> RowReader:
    return Image(np.zeros((1000, 2000, 3), dtype=np.uint8)).rows()


def test_a_band_is_as_high_as_its_bytes_allow_and_tiles_make_up_for_it() -> None:
    rows = wide_rows()
    tiling = TilePlanner(303, band=2000 * 3 * 16 * 100)  # rows of this width leave 257
    assert tiling.rows(rows, FakeBackend(scale=4)) == 100
    height, width = tiling.shape(100, rows, FakeBackend(scale=4))
    assert (height, width) == (100, 500)
    assert height * width <= 256**2
    assert tiling.shape(100, rows, FakeBackend(scale=4, tile_multiple=8)) == (104, 504)
    assert TilePlanner(256, fixed=True).shape(1000, rows, FakeBackend(scale=4)) == (250, 250)
    assert TilePlanner(0).shape(1000, rows, FakeBackend(scale=4)) == (1000, 2000)


def test_tiles_are_smaller_if_rows_are_long() -> None:
    """The memory of rows that are being written and of a tile is constant in total, as long as tiles can shrink."""
    tiling = TilePlanner(512)
    sums = []
    for row in (0, 30_000, 120_000):
        tile = tiling.side_for(FakeBackend(scale=4), row) ** 2 * SHIPPED_BYTES_PER_PIXEL
        sums.append(tile + ROWS_IN_FLIGHT * row)
    assert sums == pytest.approx([512**2 * SHIPPED_BYTES_PER_PIXEL] * 3, rel=0.01)
    assert tiling.side_for(FakeBackend(scale=4), 10**7) == 256
    assert TilePlanner(512, fixed=True).side_for(FakeBackend(scale=4), 10**7) == 512


def test_a_network_that_needs_more_memory_gets_smaller_tiles_unless_they_are_fixed() -> None:
    hungry = FakeBackend(scale=4, bytes_per_pixel=16 * BYTES_PER_PIXEL)
    assert TilePlanner(303).shape(1000, wide_rows(), hungry) == (63, 65)
    assert TilePlanner(256).side_for(hungry) == 64
    assert TilePlanner(32).side_for(hungry) == 16
    assert TilePlanner(256, fixed=True).side_for(hungry) == 256
    assert TilePlanner(0, fixed=True).side_for(hungry) == 0


def test_tiles_fit_into_the_memory_of_a_gpu() -> None:
    full, roomy = (FakeBackend(scale=4, bytes_per_pixel=16 * BYTES_PER_PIXEL, device_free_bytes=own) for own in (2**28, 2**36))
    assert TilePlanner(512).side_for(full) == 45  # two thousand pixels of 64 KiB are half of what is free
    assert TilePlanner(512).side_for(roomy) == 512  # which in the machine's memory would be 128
    assert TilePlanner(512, fixed=True).side_for(full) == 512


def test_halving_reports_the_side_for_wide_rows() -> None:
    said: list[int] = []
    tiling = TilePlanner(303, on_halved=said.append)
    tiling.halve(wide_rows(), FakeBackend(scale=4))
    assert said == [128]


def test_halving_starts_from_the_side_that_was_used() -> None:
    said: list[int] = []
    full, tiling = (
        FakeBackend(scale=4, bytes_per_pixel=BYTES_PER_PIXEL, device_free_bytes=2**27),
        TilePlanner(512, on_halved=said.append),
    )
    assert tiling.side_for(full) == 128
    narrow = Image(np.zeros((1000, 1, 3), dtype=np.uint8)).rows()
    tiling.halve(narrow, full)
    tiling.halve(narrow, full)
    assert said == [64, 32]
    assert tiling.side_for(FakeBackend(scale=4)) == 128  # a network with other limits goes down as far


def test_tiled_equals_untiled_for_johnson(pixels: Pixels) -> None:
    import torch

    generator = build_generator(JohnsonConfig(scale=4, channels=8, blocks=1))
    backend = TorchBackend(generator, torch.device("cpu"), scale=4, halo=generator.halo)
    image = Image(pixels(45, 38))
    assert difference(upscale(backend, image, tile=16), upscale(backend, image, tile=0)) <= 1


def test_tiles_cover_every_pixel_once_and_see_their_halo() -> None:
    seen = np.zeros((37, 50), dtype=int)
    for tile in tiles(37, 50, tile=16, halo=5):
        seen[tile.inner] += 1
        for inner, outer, side in zip(tile.inner, tile.outer, seen.shape, strict=True):
            assert outer.start == max(0, inner.start - 5)
            assert outer.stop == min(side, inner.stop + 5)
    assert (seen == 1).all()


def test_no_call_gets_more_than_a_tile_and_its_halo(backend: Backend, pixels: Pixels) -> None:
    sizes: list[tuple[int, ...]] = []

    def network(lr: np.ndarray) -> np.ndarray:
        sizes.append(lr.shape[1:])
        return backend(lr)

    upscale(FakeBackend(network, scale=backend.scale, halo=backend.halo), Image(pixels(100, 90)), tile=32)
    assert max(max(size) for size in sizes) <= 32 + 2 * backend.halo


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_sixteen_bits_are_preserved_and_agree_with_eight(backend: Backend, pixels: Pixels, channels: int) -> None:
    eight = pixels(12, 15, channels)
    deep = upscale(backend, Image(eight.astype(np.uint16) * 257))
    assert deep.pixels.dtype == np.uint16
    difference = np.abs(deep.pixels / 257 - upscale(backend, Image(eight)).pixels)
    visible = deep.pixels[..., -1] > 32_768 if channels in (2, 4) else slice(None)  # color is vague where little of it shows
    assert difference[visible].max() <= 2
    assert len(np.unique(deep.pixels)) > 256  # and not 8 bits in the clothes of 16


def test_metadata_is_preserved(backend: Backend, pixels: Pixels) -> None:
    metadata = (("note", 0, "kept"),)
    assert upscale(backend, Image(pixels(4, 4), metadata)).metadata == metadata


def test_an_opaque_image_keeps_its_colors_and_stays_opaque(backend: Backend, pixels: Pixels) -> None:
    rgb = pixels(20, 20)
    rgba = np.dstack([rgb, np.full((20, 20), 255, dtype=np.uint8)])
    large = upscale(backend, Image(rgba)).pixels
    assert (large[..., 3] == 255).all()
    np.testing.assert_array_equal(large[..., :3], upscale(backend, Image(rgb)).pixels)


def test_the_color_of_invisible_pixels_does_not_bleed() -> None:
    """The edge of a red disc over invisible green, which upscaling without regard to alpha would mix."""
    import torch

    def bilinear(lr: np.ndarray) -> np.ndarray:
        batch = torch.from_numpy(np.ascontiguousarray(lr))[None]
        sr: np.ndarray = torch.nn.functional.interpolate(batch, scale_factor=2, mode="bilinear")[0].numpy()
        return sr

    pixels = np.zeros((10, 10, 4), dtype=np.uint8)
    pixels[:, :5] = (255, 0, 0, 255)
    pixels[:, 5:] = (0, 255, 0, 0)
    large = upscale(FakeBackend(bilinear, halo=1), Image(pixels)).pixels
    visible = large[large[..., 3] > 0]
    assert visible[:, 0].min() >= 250
    assert visible[:, 1].max() == 0


def test_a_tile_that_is_too_small_is_rejected(backend: Backend, pixels: Pixels) -> None:
    with pytest.raises(ConfigError, match="A tile of 8 pixels is too small; use at least 16"):
        upscale(backend, Image(pixels(4, 4)), tile=8)


@pytest.mark.gpu
def test_a_gpu_gives_the_same_image(tmp_path: Path, pixels: Pixels) -> None:
    model = make_model(tmp_path / "tiny.safetensors", scale=4)
    image = Image(pixels(40, 40))
    assert difference(upscale(load_model(model, "cuda"), image), upscale(load_model(model, "cpu"), image)) <= 1


def test_the_self_ensemble_is_the_mean_over_all_flips_and_rotations(tmp_path: Path) -> None:
    one = load_model(make_model(tmp_path / "tiny.safetensors", scale=3), "cpu")
    ensemble = load_model(f"{tmp_path / 'tiny.safetensors'}+", "cpu")
    lr = np.random.default_rng(0).random((3, 11, 8), dtype=np.float32)
    turns = [lambda a, k=k, m=m: np.rot90(a[..., ::-1] if m else a, k, (1, 2)) for k in range(4) for m in (False, True)]
    backs = [
        lambda a, k=k, m=m: np.rot90(a, -k, (1, 2))[..., ::-1] if m else np.rot90(a, -k, (1, 2))
        for k in range(4)
        for m in (False, True)
    ]
    ways = [back(one(np.ascontiguousarray(turn(lr)))) for turn, back in zip(turns, backs, strict=True)]
    np.testing.assert_allclose(ensemble(lr), np.mean(ways, axis=0), atol=1e-5)
    np.testing.assert_allclose(ensemble(np.ascontiguousarray(lr[..., ::-1])), ensemble(lr)[..., ::-1], atol=1e-5)
