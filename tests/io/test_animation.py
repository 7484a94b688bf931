"""Animations and pages: the same frames, delays and loops before and after, as Pillow plays them."""

import gc
import io
import subprocess
import sys
import weakref
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import pyvips
from PIL import Image

from srcli.errors import SrcliError
from srcli.io.animation import Animation
from srcli.io.avif import loop_of_avif, set_loop
from srcli.io.formats import SaveOptions
from srcli.io.image import ArrayRows
from srcli.io.read import open_image
from srcli.io.write import resampled_rows, write_rows
from tests.conftest import CommandResult

Command = Callable[..., CommandResult]
Pixels = Callable[..., np.ndarray]

HEIGHT, WIDTH = 24, 36
DELAYS = [100, 50, 200, 70, 1000]
MOVING = (".gif", ".webp", ".png", ".avif")


def frames_of(pixels: Pixels, *, transparent: bool) -> list[Image.Image]:
    """A square that moves over a smooth background, or over nothing."""
    frames = []
    for number in range(len(DELAYS)):
        frame = np.dstack([pixels(HEIGHT, WIDTH), np.full((HEIGHT, WIDTH), 0 if transparent else 255, np.uint8)])
        frame[6:14, 5 * number : 5 * number + 8] = (220, 40, 60, 255)
        frames.append(Image.fromarray(frame if transparent else frame[..., :3]))
    return frames


def save(path: Path, frames: list[Image.Image], loop: int) -> None:
    exact = {".webp": {"lossless": True}, ".avif": {"quality": 100}, ".gif": {"disposal": 2}}.get(path.suffix, {})
    timing = {} if path.suffix == ".avif" else {"loop": loop}
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=DELAYS, **timing, **exact)
    if path.suffix == ".avif":
        set_loop(path, loop)


def played(path: Path) -> tuple[list[np.ndarray], list[int], int | None]:
    """Frames as RGBA, delays and loop."""
    frames, delays = [], []
    with Image.open(path) as file:
        for number in range(file.n_frames):
            file.seek(number)
            file.load()
            frames.append(np.asarray(file.convert("RGBA")).astype(float))
            delays.append(round(file.info["duration"]))
        loop = file.info.get("loop")
    if path.suffix == ".avif":
        with path.open("rb") as stream:
            loop = loop_of_avif(stream)
    return frames, delays, loop


def visible(frame: np.ndarray) -> np.ndarray:
    return frame[..., :3] * frame[..., 3:] / 255


def plays(loop: int | None, suffix: str) -> int | None:
    """How often an animation plays; 0 is forever. GIF counts repetitions."""
    if suffix == ".gif" and loop != 0:
        return 1 if loop is None else loop + 1
    return loop


@pytest.mark.parametrize("transparent", [False, True])
@pytest.mark.parametrize("ending", MOVING)
@pytest.mark.parametrize("source", MOVING)
def test_an_animation_plays_the_same(
    srcli: Command, model: Path, pixels: Pixels, tmp_path: Path, source: str, ending: str, transparent: bool
) -> None:
    path, target = tmp_path / f"lr{source}", tmp_path / f"sr{ending}"
    save(path, frames_of(pixels, transparent=transparent), loop=3)
    outcome = srcli("upscale", path, "-m", model, "-o", target)
    assert outcome.exit_code == 0, outcome.stderr
    (small, delays, loop), (large, new_delays, new_loop) = played(path), played(target)
    assert new_delays == delays == DELAYS
    assert plays(new_loop, ending) == plays(loop, source) == (4 if source == ".gif" else 3)
    stills = [tmp_path / f"{number}.png" for number in range(len(small))]
    for still, frame in zip(stills, small, strict=True):
        Image.fromarray(frame.astype(np.uint8)).save(still)
    assert srcli("upscale", *stills, "-m", model, "-o", tmp_path / "large").exit_code == 0
    lossy = 2 if ending == ".png" else 20 if transparent else 14  # 256 colors in GIF, quality in the others
    for still, frame in zip(stills, large, strict=True):
        expected = np.asarray(Image.open(tmp_path / "large" / f"{still.stem}_x2.png").convert("RGBA")).astype(float)
        assert np.abs(visible(frame) - visible(expected)).mean() < lossy


@pytest.mark.parametrize("turned", [False, True])
def test_an_animated_webp_keeps_its_description(
    srcli: Command, model: Path, pixels: Pixels, tmp_path: Path, turned: bool
) -> None:
    frames, exif = frames_of(pixels, transparent=False), Image.Exif()
    exif[0x010F], exif[0x0112] = "Maker", 6 if turned else 1
    profile = pyvips.Image.profile_load("p3")
    frames[0].save(
        tmp_path / "lr.webp", save_all=True, append_images=frames[1:], duration=DELAYS, exif=exif, icc_profile=profile
    )
    assert srcli("upscale", tmp_path / "lr.webp", "-m", model, "-o", tmp_path / "sr.webp").exit_code == 0
    with Image.open(tmp_path / "sr.webp") as large:
        assert large.n_frames == len(frames)
        assert large.size == ((2 * HEIGHT, 2 * WIDTH) if turned else (2 * WIDTH, 2 * HEIGHT))
        assert (large.getexif()[0x010F], large.getexif().get(0x0112, 1)) == ("Maker", 1)
        assert large.info["icc_profile"] == profile


def test_a_frame_can_still_be_chosen(srcli: Command, model: Path, pixels: Pixels, tmp_path: Path) -> None:
    save(tmp_path / "lr.gif", frames_of(pixels, transparent=False), loop=0)
    assert srcli("upscale", tmp_path / "lr.gif", "-m", model, "-o", tmp_path / "sr.jpg", "--frame", 2).exit_code == 0
    refused = srcli("upscale", tmp_path / "lr.gif", "-m", model, "-o", tmp_path / "all.jpg")
    assert refused.exit_code == 1
    assert "all.jpg cannot hold 5 frames. Write .png or .webp or .avif or .gif" in refused.stderr
    assert "--frame" in refused.stderr


def test_the_size_of_an_animation_can_be_chosen(srcli: Command, model: Path, pixels: Pixels, tmp_path: Path) -> None:
    """Each frame is resampled for itself, so that no row of one shows in another."""
    frames = [Image.new("RGB", (WIDTH, HEIGHT), color) for color in ("black", "white", "black")]
    frames[0].save(tmp_path / "lr.png", save_all=True, append_images=frames[1:], duration=100)
    outcome = srcli("upscale", tmp_path / "lr.png", "-m", model, "-o", tmp_path / "sr.png", "--size", "50x")
    assert outcome.exit_code == 0, outcome.stderr
    large, _, _ = played(tmp_path / "sr.png")
    assert [frame.shape for frame in large] == [(33, 50, 4)] * 3
    assert all(np.abs(frame[1:3] - frame[16:18]).max() < 40 for frame in large)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_pages_of_a_tiff_stay_pages(srcli: Command, model: Path, pixels: Pixels, tmp_path: Path, dtype: type) -> None:
    import tifffile

    stack = np.stack([pixels(HEIGHT, WIDTH, 3, dtype, seed=seed) for seed in range(3)])
    tifffile.imwrite(tmp_path / "lr.tif", stack, photometric="rgb", metadata=None)
    outcome = srcli("upscale", tmp_path / "lr.tif", "-m", model, "-o", tmp_path / "sr.tif")
    assert outcome.exit_code == 0, outcome.stderr
    with tifffile.TiffFile(tmp_path / "sr.tif") as file:
        assert [page.shape for page in file.pages] == [(2 * HEIGHT, 2 * WIDTH, 3)] * 3
        for page, small in zip(file.pages, stack, strict=True):
            assert page.dtype == dtype
            tifffile.imwrite(tmp_path / "one.tif", small, photometric="rgb", metadata=None)
            srcli("upscale", tmp_path / "one.tif", "-m", model, "-o", tmp_path / "one_sr.tif", "--overwrite")
            np.testing.assert_array_equal(page.asarray(), tifffile.imread(tmp_path / "one_sr.tif"))
    refused = srcli("upscale", tmp_path / "lr.tif", "-m", model, "-o", tmp_path / "sr.png")
    assert "cannot hold 3 pages. Write .tif, or choose one with --frame." in refused.stderr


@pytest.mark.parametrize("photometric", ["rgb", "ycbcr"])
def test_pages_are_turned_one_by_one(tmp_path: Path, pixels: Pixels, photometric: str) -> None:
    """YCbCr is decoded by another library."""
    import tifffile

    stack = [Image.fromarray(pixels(HEIGHT, WIDTH, seed=seed)) for seed in range(3)]
    with tifffile.TiffWriter(tmp_path / "lr.tif") as file:
        for page in stack:
            stored = np.asarray(page.transpose(Image.Transpose.ROTATE_90).convert("YCbCr" if photometric == "ycbcr" else "RGB"))
            how = {"subsampling": (1, 1)} if photometric == "ycbcr" else {}
            file.write(stored, photometric=photometric, metadata=None, extratags=[(274, "H", 1, 6, True)], **how)
    image = open_image(tmp_path / "lr.tif", all_frames=True)
    assert image.animation == Animation(3)
    assert (image.width, image.frame_height) == (WIDTH, HEIGHT)
    expected = np.concatenate([np.asarray(page) for page in stack]).astype(int)
    assert np.abs(image.read(image.height) - expected).max() < (4 if photometric == "ycbcr" else 1)


def test_pages_of_different_sizes_are_refused(srcli: Command, model: Path, tmp_path: Path) -> None:
    Image.new("RGB", (20, 10)).save(tmp_path / "lr.tif", save_all=True, append_images=[Image.new("RGB", (10, 20))])
    outcome = srcli("upscale", tmp_path / "lr.tif", "-m", model)
    assert outcome.exit_code == 1
    assert "has 2 pages of different sizes, types or orientations; choose one with --frame" in outcome.stderr


@pytest.mark.parametrize("ending", MOVING)
def test_damaged_animations_are_errors_of_one_line(tmp_path: Path, pixels: Pixels, ending: str) -> None:
    save(tmp_path / f"lr{ending}", frames_of(pixels, transparent=False), loop=0)
    whole = (tmp_path / f"lr{ending}").read_bytes()
    for place in range(len(whole) // 2, len(whole) - 40, max(1, len(whole) // 40)):
        content = whole[:place] + bytes(40) + whole[place + 40 :]
        with suppress(SrcliError):  # and no other error
            file = open_image(content, all_frames=True)
            while len(file.read(256)):
                pass


def test_existing_animations_are_skipped(srcli: Command, model: Path, pixels: Pixels, tmp_path: Path) -> None:
    save(tmp_path / "lr.gif", frames_of(pixels, transparent=False), loop=0)
    assert srcli("upscale", tmp_path / "lr.gif", "-m", model).exit_code == 0
    outcome = srcli("upscale", tmp_path / "lr.gif", "-m", model, "--skip-existing")
    assert outcome.exit_code == 0
    assert "skipped 1 existing result" in outcome.stderr


def test_a_page_compares_the_first_frame(srcli: Command, model: Path, pixels: Pixels, tmp_path: Path) -> None:
    save(tmp_path / "lr.gif", frames_of(pixels, transparent=False), loop=0)
    outcome = srcli("upscale", tmp_path / "lr.gif", "-m", model, "--compare", tmp_path / "page.html")
    assert outcome.exit_code == 0, outcome.stderr
    assert (tmp_path / "page.html").is_file()


@pytest.mark.parametrize("blending", [0, 1])
@pytest.mark.parametrize("disposal", [0, 1, 2])
@pytest.mark.parametrize("hidden", [False, True])
def test_frames_of_apng_are_composed(tmp_path: Path, pixels: Pixels, disposal: int, blending: int, hidden: bool) -> None:
    """Pillow composes frames that are disposed of to the previous one otherwise than browsers."""
    frames = frames_of(pixels, transparent=True)
    how = {"save_all": True, "duration": DELAYS, "loop": 3, "disposal": disposal, "blend": blending}
    if hidden:
        Image.new("RGBA", (WIDTH, HEIGHT), "red").save(tmp_path / "a.png", append_images=frames, default_image=True, **how)
    else:
        frames[0].save(tmp_path / "a.png", append_images=frames[1:], **how)
    image = open_image(tmp_path / "a.png", all_frames=True)
    assert image.animation == Animation(len(frames), tuple(DELAYS), 3)
    shown = image.read(image.height).reshape(len(frames), HEIGHT, WIDTH, 4)
    for one, frame in zip(shown, frames, strict=True):
        if disposal == 1 or blending == 0:  # otherwise, what is transparent does not replace what was there
            np.testing.assert_array_equal(visible(one.astype(float)), visible(np.asarray(frame).astype(float)))
    again = open_image(tmp_path / "a.png", frame=4)
    np.testing.assert_array_equal(again.read(HEIGHT), shown[3])


def test_an_animated_png_keeps_16_bits_and_its_metadata(tmp_path: Path, pixels: Pixels) -> None:
    frames = np.concatenate([pixels(HEIGHT, WIDTH, 3, np.uint16, seed=seed) for seed in range(3)])
    blob = pyvips.GValue.blob_type
    exif = Image.Exif()
    exif[0x010F] = "Maker"
    metadata = (("icc-profile-data", blob, pyvips.Image.profile_load("p3")), ("exif-data", blob, exif.tobytes()))
    write_rows(ArrayRows(frames), tmp_path / "a.png", animation=Animation(3, (10, 20, 30)), metadata=metadata)
    image = open_image(tmp_path / "a.png", all_frames=True)
    np.testing.assert_array_equal(image.read(image.height), frames)
    fields = {name: value for name, _, value in image.metadata}
    assert fields["icc-profile-data"] == metadata[0][2]
    assert b"Maker" in fields["exif-data"]


@pytest.mark.parametrize("ending", [".png", ".webp"])
def test_only_what_changes_is_stored(tmp_path: Path, pixels: Pixels, ending: str) -> None:
    """Frames that do not change, change at an odd place, or become transparent."""
    frames = [np.dstack([pixels(HEIGHT, WIDTH), np.full((HEIGHT, WIDTH), 255, np.uint8)]) for _ in range(4)]
    frames[2][7:9, 11:16] = (9, 200, 100, 255)
    frames[3][7:, 3:] = 0
    blob = pyvips.GValue.blob_type
    profile, packet = pyvips.Image.profile_load("p3"), b'<x:xmpmeta xmlns:x="adobe:ns:meta/">' + b" " * 9 + b"</x:xmpmeta>"
    exif = Image.Exif()
    exif._ifds[0x8769] = {0x927C: b"x\0" * 40_000}
    metadata = (("icc-profile-data", blob, profile), ("xmp-data", blob, packet), ("exif-data", blob, exif.tobytes()))
    target = tmp_path / f"sr{ending}"
    rows = ArrayRows(np.concatenate(frames))
    animation = Animation(4, (10, 20, 30, 40), loop=5)
    write_rows(rows, target, animation=animation, metadata=metadata, options=SaveOptions(lossless=ending == ".webp"))
    large, delays, loop = played(target)
    assert (delays, loop) == ([10, 20, 30, 40], 5)
    for frame, expected in zip(large, frames, strict=True):
        np.testing.assert_array_equal(visible(frame), visible(expected.astype(float)))
    with Image.open(target) as file:
        assert file.info["icc_profile"] == profile
        assert file.info["xmp"] == packet
        assert len(file.getexif().get_ifd(0x8769)[0x927C]) == 80_000
    still = tmp_path / f"still{ending}"
    write_rows(ArrayRows(frames[0]), still, metadata=metadata, options=SaveOptions(lossless=ending == ".webp"))
    assert target.stat().st_size < still.stat().st_size + 800


def test_delays_of_gif_add_up(tmp_path: Path, pixels: Pixels) -> None:
    rows = ArrayRows(np.concatenate([pixels(HEIGHT, WIDTH, seed=seed) for seed in range(6)]))
    write_rows(rows, tmp_path / "a.gif", animation=Animation(6, (33, 33, 33, 33, 33, 35)))
    assert played(tmp_path / "a.gif")[1] == [30, 40, 30, 30, 30, 40]


def test_a_loop_that_an_avif_does_not_state_is_forever(tmp_path: Path, pixels: Pixels) -> None:
    save(tmp_path / "a.avif", frames_of(pixels, transparent=True), loop=2)
    whole = (tmp_path / "a.avif").read_bytes()
    assert loop_of_avif(io.BytesIO(whole)) == 2
    for damaged in (whole.replace(b"elst", b"free"), whole.replace(b"moov", b"free"), whole[:100]):
        assert loop_of_avif(io.BytesIO(damaged)) == 0


def test_resampled_frames_are_released_when_they_are_read(pixels: Pixels) -> None:
    source = ArrayRows(pixels(HEIGHT, WIDTH))
    released = weakref.ref(source)
    rows = resampled_rows(source, 20, 10)
    assert rows.read(10).shape == (10, 20, 3)
    gc.disable()
    try:
        del source, rows
        assert released() is None
    finally:
        gc.enable()


GROWTH = """
import sys
from pathlib import Path
import psutil
from srcli.io.read import open_image
file = open_image(Path(sys.argv[1]), all_frames=True)
used = []
while len(rows := file.read(150)):
    used.append(psutil.Process().memory_info().rss)
print(used[-1] - used[len(used) // 4])
"""
"""How much more memory is in use after the last frame than after a quarter of them."""


@pytest.mark.parametrize("ending", MOVING)
def test_reading_an_animation_takes_the_memory_of_a_few_frames(tmp_path: Path, ending: str) -> None:
    shades = np.linspace(0, 200, 480, dtype=np.uint8)
    frames = [
        Image.fromarray(np.broadcast_to(np.roll(shades, 8 * number)[None, :, None], (320, 480, 3))) for number in range(60)
    ]
    path = tmp_path / f"a{ending}"
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=40)
    growth = subprocess.run([sys.executable, "-c", GROWTH, path], check=True, capture_output=True, text=True).stdout
    assert int(growth) < 15 * 480 * 320 * 4
