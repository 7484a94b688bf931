"""Batches: plans, sizes, interrupted and killed runs."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fuzz import fuzz
from killed_batch import bomb, files_below, trial
from PIL import Image as PILImage

from srcli.cli.parsing import parse_memory, parse_size
from srcli.errors import ConfigError, SrcliError
from srcli.inference.plan import Size, model_chain, plan
from srcli.io.atomic import atomic_write, remove_stale_temp_files
from srcli.io.image import Image
from srcli.io.read import read_image
from srcli.io.write import write_image
from srcli.models.registry import ModelSpec, describe_model
from tests.conftest import CommandResult, FakeBackend, make_model, repeated

Command = Callable[..., CommandResult]
Pixels = Callable[..., np.ndarray]

X4 = Size(scale=4)


# sizes


@pytest.mark.parametrize(
    ("size", "image", "result"),
    [
        (Size(scale=2), (40, 30), (80, 60)),
        (Size(scale=2.5), (41, 30), (102, 75)),
        (parse_size("100x90"), (40, 30), (100, 90)),
        (parse_size("100x"), (40, 30), (100, 75)),
        (parse_size("x90"), (40, 30), (120, 90)),
        (parse_size("100x90", fit=True), (40, 30), (100, 75)),
        (parse_size("200x90", fit=True), (40, 30), (120, 90)),
        (parse_size("1000x"), (333, 1), (1000, 3)),
        (parse_size("1000x1000", fit=True), (1, 333), (3, 1000)),
    ],
)
def test_the_requested_size_is_exact(size: Size, image: tuple[int, int], result: tuple[int, int]) -> None:
    assert size.of(*image) == result


@pytest.mark.parametrize(
    ("factor", "scales"),
    [
        (1.1, [2]),
        (2, [2]),
        (2.5, [3]),
        (3.01, [4]),
        (4, [4]),
        (5, [2, 3]),
        (8, [2, 4]),
        (9, [3, 3]),
        (16, [4, 4]),
        (64, [4] * 3),
    ],
)
def test_the_model_chain_has_the_fewest_passes(factor: float, scales: list[int]) -> None:
    models = [describe_model(f"compact-x{scale}") for scale in (2, 3, 4)]
    assert [model.scale for model in model_chain(models, factor)] == scales


def test_first_passes_may_use_other_models() -> None:
    natural, faithful = describe_model("base-x4-perceptual"), [describe_model(f"compact-x{scale}") for scale in (2, 3, 4)]
    for factor, scales in ((2, [4]), (4, [4]), (8, [2, 4]), (10, [3, 4]), (30, [2, 4, 4])):
        *start, end = model_chain([natural], factor, faithful)
        assert [model.scale for model in (*start, end)] == scales
        assert end == natural
        assert all(model in faithful for model in start)


def test_a_single_model_is_repeated_up_to_a_limit() -> None:
    models = [describe_model("base-x2")]
    assert [model.scale for model in model_chain(models, 7)] == [2, 2, 2]
    with pytest.raises(SrcliError, match="A factor of 100 takes more than 6 passes"):
        model_chain(models, 100)


@pytest.mark.parametrize(
    ("words", "size"),
    [
        (["--scale", "2.5"], (100, 75)),
        (["--scale", "8"], (320, 240)),
        (["--size", "100x"], (100, 75)),
        (["--size", "100x100"], (100, 100)),
        (["--size", "100x100", "--fit"], (100, 75)),
    ],
)
def test_any_size_on_the_command_line(
    srcli: Command, model: Path, photo: Path, tmp_path: Path, words: list[str], size: tuple[int, int]
) -> None:
    target = tmp_path / "sr.png"
    outcome = srcli("upscale", photo, "-m", model, "-o", target, *words)
    assert outcome.exit_code == 0
    assert f"{photo}: 40x30 becomes {size[0]}x{size[1]} (tiny" in outcome.stderr
    assert ("This changes the aspect ratio" in outcome.stderr) == (words == ["--size", "100x100"])
    image = read_image(target)
    assert (image.width, image.height) == size


def test_resampling_preserves_colors(srcli: Command, tmp_path: Path, pixels: Pixels) -> None:
    rgba = pixels(30, 40, 4)
    PILImage.fromarray(rgba).save(tmp_path / "lr.png")
    assert srcli("upscale", tmp_path / "lr.png", "-o", tmp_path / "sr.png", "--scale", "2.6").exit_code == 0
    with PILImage.open(tmp_path / "sr.png") as file:
        large = np.array(file).astype(float)
    seen = [image[..., :3] * image[..., 3:] / 255 for image in (large, rgba.astype(float))]
    assert np.abs(seen[0].mean(axis=(0, 1)) - seen[1].mean(axis=(0, 1))).max() < 1.5


def test_a_size_that_does_not_upscale_is_rejected(srcli: Command, model: Path, photo: Path) -> None:
    outcome = srcli("upscale", photo, "-m", model, "--size", "40x30")
    assert outcome.exit_code == 1
    assert "already 40x30 pixels, so 40x30 would not upscale it" in outcome.stderr


def test_the_longest_side_of_a_format_is_checked_before_the_work(srcli: Command, model: Path, tmp_path: Path) -> None:
    PILImage.new("L", (9000, 1)).save(tmp_path / "long.webp")
    outcome = srcli("upscale", tmp_path / "long.webp", "-m", model)
    assert outcome.exit_code == 1
    assert "would be 18000x2 pixels; WebP supports 16383 per side" in outcome.stderr


# which images, and where to


def tree(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        PILImage.new("RGB", (8, 6)).save(path)


def planned(*inputs: str, output: str | None = None, extension: str | None = None, recursive: bool = False) -> dict[str, str]:
    jobs = plan(inputs, output, X4, extension=extension, recursive=recursive)
    assert not [job.error for job in jobs if job.error]
    return {job.source.as_posix(): job.target.as_posix() for job in jobs}


def test_a_tree_is_mirrored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tree(tmp_path, "in/a.png", "in/deep/er/b.jpg", "in/.hidden/c.png")
    assert planned("in") == {"in/a.png": "in/a_x4.png"}
    assert planned("in", recursive=True, output="out") == {
        "in/a.png": "out/a_x4.png",
        "in/deep/er/b.jpg": "out/deep/er/b_x4.jpg",
    }
    assert planned("in/**/*.jpg", output="out", extension=".png") == {"in/deep/er/b.jpg": "out/deep/er/b_x4.png"}
    assert planned("in/*/*/b.*") == {"in/deep/er/b.jpg": "in/deep/er/b_x4.jpg"}


def test_earlier_results_are_not_inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tree(tmp_path, "a.png", "a_x4.png", "out/b_x4.png", "other_x4.png")
    assert planned(".", output="out", recursive=True).keys() == {"a.png", "other_x4.png"}


def test_collisions_are_found_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tree(tmp_path, "a.png", "a.jpg", "a_x4.png")
    errors = [job.error for job in plan(["a.jpg", "a.png"], None, X4, extension=".png", recursive=False) if job.error]
    assert errors == ["a.png and a.jpg would both become a_x4.png. Write them to different folders."]
    errors = [job.error for job in plan(["a.png", "a_x4.png"], None, X4, extension=None, recursive=False) if job.error]
    assert errors == ["a.png would become a_x4.png, which is an input, too. Write the results to another folder."]


def test_a_pattern_that_matches_nothing_is_named(srcli: Command, tmp_path: Path) -> None:
    outcome = srcli("upscale", tmp_path / "*.png")
    assert outcome.exit_code == 1
    assert f"{tmp_path}/*.png matches no image" in outcome.stderr


def test_stdin_and_stdout(model: Path, photo: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "srcli", "upscale", "-", "-m", str(model)]
    done = subprocess.run(command, input=photo.read_bytes(), capture_output=True, check=True)
    with PILImage.open(io.BytesIO(done.stdout)) as file:
        assert (file.format, file.size) == ("PNG", (80, 60))
    done = subprocess.run([*command, "-o", "-", "--format", "webp"], input=photo.read_bytes(), capture_output=True, check=True)
    with PILImage.open(io.BytesIO(done.stdout)) as file:
        assert (file.format, file.size) == ("WEBP", (80, 60))
    done = subprocess.run(command, input=b"no image", capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"srcli: stdin is not an image" in done.stderr


# what is said


def test_a_line_of_json_for_each_image(srcli: Command, model: Path, photo: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.png").write_bytes(b"")
    outcome = srcli("upscale", photo, tmp_path / "empty.png", "-m", model, "--device", "cpu", "--json", "-o", tmp_path / "out")
    assert outcome.exit_code == 1
    good, bad = map(json.loads, outcome.stdout.splitlines())
    assert good == {
        "input": str(photo),
        "output": str(tmp_path / "out" / "photo_x2.png"),
        "lr": [40, 30],
        "sr": [80, 60],
        "models": ["tiny"],
        "device": good["device"],
        "seconds": good["seconds"],
        "denoise": None,
        "skipped": False,
        "large": False,
        "notes": [],
        "error": None,
    }
    assert "cpu" in good["device"]
    assert good["seconds"] > 0
    assert "is empty (0 bytes)" in bad["error"]


@pytest.mark.parametrize("turned", [1, 6])
def test_a_jpeg_with_missing_data_is_upscaled_and_reported(
    srcli: Command, model: Path, tmp_path: Path, pixels: Pixels, turned: int
) -> None:
    path, exif = tmp_path / "torn.jpg", PILImage.Exif()
    exif[0x0112] = turned
    PILImage.fromarray(pixels(400, 300)).save(path, exif=exif)
    content = path.read_bytes()
    path.with_name("whole.jpg").write_bytes(content)
    path.write_bytes(content[: len(content) * 2 // 3] + b"\xff\xd9")
    outcome = srcli("upscale", path, "-m", model, "--json")
    assert outcome.exit_code == 0
    record = json.loads(outcome.stdout)
    sentence = f"{path} is damaged (VipsJpeg: Corrupt JPEG data: premature end of data segment); check whether"
    assert record["notes"][0].startswith(sentence)
    assert sentence in outcome.stderr
    assert record["sr"] == ([600, 800] if turned == 1 else [800, 600])
    whole = srcli("upscale", path.with_name("whole.jpg"), "-m", model, "--json")
    assert json.loads(whole.stdout)["notes"] == []
    if turned == 1:  # the rows before the damage are those of the whole image
        torn, sound = (read_image(tmp_path / f"{name}_x2.jpg").pixels[:300] for name in ("torn", "whole"))
        np.testing.assert_array_equal(torn, sound)


def test_a_dry_run_writes_nothing(srcli: Command, model: Path, photos: Path) -> None:
    before = files_below(photos)
    outcome = srcli("upscale", photos, "-r", "-m", model, "--dry-run", "--json")
    assert outcome.exit_code == 0
    assert [json.loads(line)["sr"] for line in outcome.stdout.splitlines()] == [[192, 160]] * 3
    assert outcome.stderr.count("96x80 becomes 192x160 (tiny).") == 3
    assert files_below(photos) == before


def test_fail_fast_ends_at_the_first_failure(srcli: Command, model: Path, photos: Path) -> None:
    (photos / "a.png").write_bytes(b"")
    for number in range(30):
        write_image(read_image(photos / "one.png"), photos / f"more {number:02}.png")
    outcome = srcli("upscale", photos, "-m", model, "--fail-fast", "--device", "cpu")
    assert outcome.exit_code == 1
    assert outcome.stdout == ""
    assert len(outcome.stderr.splitlines()) == 1
    assert len(list(photos.glob("*_x2.png"))) < 30


# what already exists


def test_only_complete_results_of_the_right_size_are_skipped(srcli: Command, model: Path, photos: Path) -> None:
    assert srcli("upscale", photos, "-m", model).exit_code == 0
    whole, cut = photos / "one_x2.png", photos / "two_x2.png"
    stamp, content = whole.stat().st_mtime_ns, cut.read_bytes()
    cut.write_bytes(content[:-1])
    outcome = srcli("upscale", photos, "-m", model, "--skip-existing")
    assert (outcome.exit_code, outcome.stdout) == (1, "")
    assert f"{cut} already exists but is not a complete image (192x160 was expected)" in outcome.stderr
    assert "skipped 1 existing result" in outcome.stderr
    assert whole.stat().st_mtime_ns == stamp
    assert cut.read_bytes() == content[:-1]
    other = Image(np.zeros((5, 5, 3), dtype=np.uint8))
    write_image(other, whole, overwrite=True)
    outcome = srcli("upscale", photos, "-m", model, "--skip-existing")
    assert outcome.exit_code == 1
    assert f"{whole} already exists with another size (192x160 was expected)" in outcome.stderr
    assert read_image(whole).width == 5


def text_file(path: Path) -> None:
    path.write_text("notes")


def two_pages(path: Path) -> None:
    page = PILImage.new("RGB", (80, 60))
    page.save(path, "TIFF", save_all=True, append_images=[page])


def animation(path: Path) -> None:
    frames = [PILImage.new("RGB", (80, 60), color) for color in ("red", "blue")]
    frames[0].save(path, "GIF", save_all=True, append_images=frames[1:])


def dangling_link(path: Path) -> None:
    path.symlink_to("nowhere.png")


@pytest.mark.parametrize("create", [text_file, two_pages, animation, dangling_link])
def test_skip_existing_never_replaces_a_file(srcli: Command, model: Path, photo: Path, create: Callable[[Path], None]) -> None:
    target = photo.with_name("photo_x2.png")
    create(target)
    before = target.is_symlink(), os.path.lexists(target) and not target.is_symlink() and target.read_bytes()
    outcome = srcli("upscale", photo, "-m", model, "--skip-existing")
    assert outcome.exit_code == 1
    assert f"{target} already exists but is not a complete image (80x60 was expected)" in outcome.stderr
    assert (target.is_symlink(), not target.is_symlink() and target.read_bytes()) == before


def test_an_image_is_not_replaced_by_its_own_result(srcli: Command, model: Path, photo: Path, tmp_path: Path) -> None:
    content = photo.read_bytes()
    other_name = tmp_path / "link.png"
    other_name.symlink_to(photo)
    hard_link = tmp_path / "hard.png"
    hard_link.hardlink_to(photo)
    for target in (photo, other_name, hard_link):
        outcome = srcli("upscale", photo, "-m", model, "-o", target, "--overwrite")
        assert outcome.exit_code == 1
        assert f"{photo} would be replaced by its own result. Choose another --output, or set --in-place" in outcome.stderr
    assert photo.read_bytes() == content
    assert srcli("upscale", photo, "-m", model, "-o", photo, "--in-place").exit_code == 0
    assert read_image(photo).width == 80
    assert hard_link.read_bytes() == content


def test_overwriting_a_symbolic_link_replaces_the_file_that_it_leads_to(
    srcli: Command, model: Path, photo: Path, tmp_path: Path
) -> None:
    link, real = tmp_path / "link.png", tmp_path / "elsewhere" / "real.png"
    real.parent.mkdir()
    real.write_bytes(b"old")
    link.symlink_to(real)
    assert srcli("upscale", photo, "-m", model, "-o", link).exit_code == 1
    assert real.read_bytes() == b"old"
    assert srcli("upscale", photo, "-m", model, "-o", link, "--overwrite").exit_code == 0
    assert link.is_symlink()
    assert read_image(real).width == 80


def test_temporary_files_of_killed_processes_are_removed_and_locked_ones_stay(tmp_path: Path) -> None:
    target = tmp_path / "sr.png"
    dead = tmp_path / ".sr.srcli-0123abcd.part.png"
    foreign = tmp_path / ".other.srcli-0123abcd.part.png"
    for path in (dead, foreign):
        path.write_bytes(b"half")
    with atomic_write(target) as part:
        part.write_bytes(b"whole")
        remove_stale_temp_files([target])
        assert part.exists()
    assert target.read_bytes() == b"whole"
    assert not dead.exists()
    assert foreign.exists()


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_batch_leaves_no_incomplete_file(model: Path, photo: Path, tmp_path: Path, sign: int) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    shades = np.random.default_rng(0).integers(0, 256, (700, 700, 3), dtype=np.uint8)
    for number in range(40):
        PILImage.fromarray(shades).save(folder / f"{number:02}.jpg")
    command = [
        sys.executable,
        "-m",
        "srcli",
        "upscale",
        str(folder),
        "-m",
        str(model),
        "--format",
        "png",
        "-o",
        str(tmp_path / "out"),
    ]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(sign, signal.SIG_DFL),  # a shell starts what runs in its background without SIGINT
    )
    while not list((tmp_path / "out").glob("*_x2.png")):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(sign)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "interrupted" in err
    assert "Traceback" not in err
    left = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert left
    assert all(name.endswith("_x2.png") for name in left)
    for name in left:
        assert read_image(tmp_path / "out" / name).width == 1400
    assert len(left) < 40
    assert set(map(Path, out.splitlines())) <= {tmp_path / "out" / name for name in left}


@pytest.mark.skipif(os.name == "nt", reason="Windows knows no SIGKILL")
def test_a_killed_batch_is_completed_by_the_next_run(tmp_path: Path) -> None:
    """A short run of benchmarks/killed_batch.py, which upscales 500 images."""
    assert trial(tmp_path, images=38, broken=13, kills=2, seed=1, words=("-m", str(make_tiny(tmp_path)))) == []


def make_tiny(folder: Path) -> Path:
    return make_model(folder / "tiny.safetensors", scale=2)


def test_damaged_files_cause_errors_only(tmp_path: Path) -> None:
    """A short run of benchmarks/fuzz.py, which reads 10,000 files."""
    verdicts = fuzz(tmp_path, files=100, seed=1_000_000, seconds=30, bytes_at_most=2 * 2**30)
    assert set(verdicts) <= {"upscaled", "rejected"}
    assert min(verdicts["upscaled"], verdicts["rejected"]) > 10


def test_damaged_models_cause_errors_only(tmp_path: Path) -> None:
    """A short run of benchmarks/fuzz.py, which reads 5,000 model files."""
    verdicts = fuzz(tmp_path, files=40, seed=1_000_000, seconds=30, bytes_at_most=2 * 2**30, models=True)
    assert set(verdicts) <= {"upscaled", "rejected"}
    assert min(verdicts["upscaled"], verdicts["rejected"]) > 5


# limits


def test_a_decompression_bomb_is_rejected_before_decoding(srcli: Command, tmp_path: Path) -> None:
    (tmp_path / "bomb.png").write_bytes(bomb())
    outcome = srcli("upscale", tmp_path / "bomb.png")
    assert outcome.exit_code == 1
    assert "60000x60000 = 3600000000 pixels, more than the limit of 1000000000" in outcome.stderr


def test_max_pixels_can_be_set(srcli: Command, model: Path, photo: Path) -> None:
    outcome = srcli("upscale", photo, "-m", model, "--max-pixels", "1199")
    assert outcome.exit_code == 1
    assert "40x30 = 1200 pixels, more than the limit of 1199" in outcome.stderr
    assert srcli("upscale", photo, "-m", model, "--max-pixels", "1200").exit_code == 0


def with_memory_for_500_pixels(lr: np.ndarray) -> np.ndarray:
    if lr.shape[1] * lr.shape[2] > 500:
        raise MemoryError
    return repeated(lr)


def test_freed_memory_is_released_only_for_large_results(
    srcli: Command, photo: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[None] = []
    monkeypatch.setattr("srcli.inference.batch.release_freed_memory", lambda: called.append(None))
    assert srcli("upscale", photo, "-m", model).exit_code == 0
    assert not called
    monkeypatch.setattr("srcli.inference.batch.LARGE", 1000)
    assert srcli("upscale", photo, "-m", model, "--overwrite").exit_code == 0
    assert called


def test_tiles_are_halved_when_memory_runs_out_and_that_is_reported(
    srcli: Command, photo: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    narrow = FakeBackend(with_memory_for_500_pixels, halo=1)
    monkeypatch.setattr("srcli.inference.batch.load_model", lambda model, device: narrow)
    outcome = srcli("upscale", photo, "-m", model, "--memory", "20M")
    assert outcome.exit_code == 0
    assert "Out of memory; continuing with tiles of 16 pixels." in outcome.stderr
    result = read_image(photo.with_name("photo_x2.png")).pixels
    np.testing.assert_array_equal(result, read_image(photo).pixels.repeat(2, axis=0).repeat(2, axis=1))


@pytest.mark.parametrize(
    ("words", "what"), [(["--tile", "32"], "tiles of 32 pixels"), (["--tile", "0"], "the whole image at once")]
)
def test_a_tile_size_set_by_the_user_never_changes(
    srcli: Command, photo: Path, model: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], what: str
) -> None:
    narrow = FakeBackend(with_memory_for_500_pixels, halo=1)
    monkeypatch.setattr("srcli.inference.batch.load_model", lambda model, device: narrow)
    outcome = srcli("upscale", photo, "-m", model, *words)
    assert outcome.exit_code == 1
    assert f"There is not enough memory for {what}. Use a smaller --tile" in outcome.stderr
    assert not photo.with_name("photo_x2.png").exists()


def test_an_output_of_the_wrong_shape_is_an_error(
    srcli: Command, photo: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = FakeBackend(lambda lr: repeated(lr)[:, :-1], halo=1)
    monkeypatch.setattr("srcli.inference.batch.load_model", lambda model, device: odd)
    outcome = srcli("upscale", photo, "-m", model)
    assert outcome.exit_code == 1
    assert "The model returned (3, 59, 80) for an input of (3, 30, 40)" in outcome.stderr
    assert not photo.with_name("photo_x2.png").exists()


def test_amounts_of_memory_are_parsed() -> None:
    from srcli.inference.memory import default_memory_budget, free_memory

    assert [parse_memory(word) for word in ("800M", "2g", "1.5 GiB", "4096")] == [800 * 2**20, 2 * 2**30, 3 * 2**29, 4096]
    assert 0 < default_memory_budget() <= free_memory()
    with pytest.raises(ConfigError):
        parse_memory("0")


def test_a_spec_knows_its_scale(model: Path) -> None:
    assert isinstance(describe_model(model), ModelSpec)
    assert describe_model(model).scale == 2
