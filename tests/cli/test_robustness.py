"""What no input, name, disk or closed pipe may do: end a command with a traceback, stop a batch, or print nonsense."""

import json
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PILImage

from srcli.inference.batch import BatchUpscaler
from srcli.io.image import Image
from srcli.io.read import read_image
from srcli.io.write import write_image
from tests import processes
from tests.conftest import CommandResult

Command = Callable[..., CommandResult]
Pixels = Callable[..., np.ndarray]

NOT_UTF8 = os.fsdecode(b"caf\xe9")
"""A name in Latin-1, as old archives contain them."""


def one_line_each(result: CommandResult, *texts: str) -> None:
    """Exit code 1, a line of stderr with each text, and no traceback."""
    assert result.exit_code == 1
    assert "Traceback" not in result.stderr
    assert "unexpected" not in result.stderr
    for text in texts:
        assert len([line for line in result.stderr.splitlines() if text in line]) == 1, result.stderr


def in_a_process(*words: object, **options: object) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "srcli", *map(os.fsencode, map(str, words))]
    return subprocess.run(command, check=False, stderr=subprocess.PIPE, **options)  # type: ignore[call-overload, no-any-return]


# names


def test_names_that_are_not_utf8(model: Path, photo: Path, tmp_path: Path) -> None:
    folder = tmp_path / NOT_UTF8
    folder.mkdir()
    extensions = ("avif", "jpg", "png", "tif", "webp")
    sources = [folder / f"{extension} {NOT_UTF8}.{extension}" for extension in extensions]
    for source in sources:
        with PILImage.open(photo) as image:
            image.save(source)
        (folder / f"broken {source.name}").write_bytes(b"no image")
    page = folder / "page.html"
    done = in_a_process("upscale", folder, "-m", model, "--compare", page, stdout=subprocess.PIPE)
    assert done.returncode == 1
    targets = [source.with_name(f"{source.stem}_x2{source.suffix}") for source in sources]
    assert done.stdout.splitlines() == [os.fsencode(target) for target in targets]
    for extension, target in zip(extensions, targets, strict=True):
        with PILImage.open(target) as image:
            assert image.size == (80, 60)
        assert f"broken {extension} caf\\udce9.{extension}".encode() in done.stderr
        assert f"{extension} caf\\udce9.{extension}" in page.read_text(encoding="utf-8")
    recorded = in_a_process("upscale", *sources, "-m", model, "--overwrite", "--json", stdout=subprocess.PIPE)
    assert [json.loads(line)["input"] for line in recorded.stdout.splitlines()] == list(map(str, sources))


def test_comparisons_of_names_that_are_not_utf8(photo: Path, tmp_path: Path) -> None:
    for name in ("true", "sr"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{NOT_UTF8}.png").write_bytes(photo.read_bytes())
    folders = [str(tmp_path / name) for name in ("true", "sr")]
    for words in ([], ["--json"], ["--csv"]):
        done = processes.run(["compare-loss", *folders, *words], tmp_path)
        assert (done.exit_code, done.stderr) == (0, "")
        assert "caf" in done.stdout
    page = tmp_path / f"{NOT_UTF8}.html"
    files = [f"{folder}/{NOT_UTF8}.png" for folder in folders]
    assert processes.run(["compare-loss", *files, "--html", str(page)], tmp_path).exit_code == 0
    assert "caf\\udce9.png" in page.read_text(encoding="utf-8")


def test_names_outside_the_encoding_of_the_terminal(model: Path, photo: Path, tmp_path: Path) -> None:
    source = tmp_path / "é.png"
    source.write_bytes(photo.read_bytes())
    ascii_only = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}
    done = in_a_process("upscale", source, tmp_path / "ñ.png", "-m", model, stdout=subprocess.PIPE, env=ascii_only)
    assert done.returncode == 1
    assert done.stdout == os.fsencode(source.with_name("é_x2.png")) + b"\n"
    assert b"Cannot read" in done.stderr
    assert b"Traceback" not in done.stderr
    assert read_image(tmp_path / "é_x2.png").width == 80


def test_a_result_with_too_long_a_name_fails_and_the_others_are_done(srcli: Command, model: Path, photo: Path) -> None:
    long = photo.with_name(f"{'n' * 250}.png")
    long.write_bytes(photo.read_bytes())
    result = srcli("upscale", long, photo, photo.with_name(f"{'n' * 300}.png"), "-m", model)
    one_line_each(result, f"Cannot upscale {long}: File name too long.", f"Cannot read {photo.with_name('n' * 300)}.png")
    assert result.stdout == f"{photo.with_name('photo_x2.png')}\n"


# folders


def test_results_of_earlier_runs_are_left_out(srcli: Command, model: Path, photos: Path) -> None:
    assert srcli("upscale", photos, "-r", "-m", model).exit_code == 0
    (photos / "plan_x2.png").write_bytes((photos / "one.png").read_bytes())  # not next to its source
    result = srcli("upscale", photos, "-r", "-m", model, "--scale", 3)
    assert result.exit_code == 0
    assert f"Left out 3 results of earlier runs in {photos}; --include-results upscales them, too." in result.stderr
    names = [Path(line).name for line in result.stdout.splitlines()]
    assert names == ["three_x3.png", "one_x3.png", "plan_x2_x3.png", "two_x3.png"]
    result = srcli("upscale", photos, "-m", model, "--scale", 1.5, "--include-results", "--dry-run", "--json")
    assert "one_x2_x1.5.png" in result.stdout


@pytest.mark.parametrize("extension", ["png", "jpg", "webp", "tif", "avif", "jxl"])
def test_results_in_another_folder_are_recognized_by_their_mark(
    srcli: Command, model: Path, photo: Path, tmp_path: Path, extension: str
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    assert srcli("upscale", photo, "-m", model, "-o", out, "--format", extension).exit_code == 0
    (out / "mine_x2.png").write_bytes(photo.read_bytes())  # has only the name of a result
    result = srcli("upscale", out, "-m", model, "--scale", 3)
    assert result.exit_code == 0
    assert f"Left out 1 result of earlier runs in {out}" in result.stderr
    assert result.stdout == f"{out / 'mine_x2_x3.png'}\n"
    stripped = tmp_path / "stripped"
    stripped.mkdir()
    assert srcli("upscale", photo, "-m", model, "-o", stripped, "--strip-metadata").exit_code == 0
    assert b"srcli" not in next(stripped.iterdir()).read_bytes()


def test_a_folder_that_cannot_be_read_fails_and_the_others_are_done(
    srcli: Command, model: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scandir = os.scandir

    def closed(path: Path) -> object:
        if Path(path).name == "below":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed)
    result = srcli("upscale", photos, "-r", "-m", model)
    one_line_each(result, f"Cannot read the folder {photos / 'below'}: Permission denied.")
    assert len(result.stdout.splitlines()) == 2
    one_line_each(srcli("train", photos, "-o", photos.parent / "run"), f"Cannot read the folder {photos / 'below'}")


@pytest.mark.parametrize("kind", ["searched", "listed"])
def test_folders_without_permissions(model: Path, photos: Path, kind: str) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    (photos / "below").chmod(0o400 if kind == "listed" else 0o100)
    done = in_a_process("upscale", photos, "-r", "-m", model, stdout=subprocess.PIPE)
    (photos / "below").chmod(0o700)
    assert done.returncode == 1
    assert b"Permission denied" in done.stderr
    assert b"Traceback" not in done.stderr
    assert len(done.stdout.splitlines()) == 2


def test_links_to_devices_and_nowhere_fail_and_the_others_are_done(srcli: Command, model: Path, photos: Path) -> None:
    (photos / "device.png").symlink_to("/dev/zero")
    (photos / "nowhere.png").symlink_to("missing.png")
    result = srcli("upscale", photos, "-m", model)
    one_line_each(result, f"{photos / 'device.png'} is not a regular file.", f"Cannot read {photos / 'nowhere.png'}")
    assert len(result.stdout.splitlines()) == 2


# streams


def test_closed_and_full_streams(model: Path, photo: Path, tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full")
    target = tmp_path / "sr.png"
    with Path("/dev/full").open("wb") as full:
        printed = in_a_process("upscale", photo, "-m", model, stdout=full)
        streamed = in_a_process("upscale", photo, "-m", model, "-o", "-", stdout=full)
        listed = in_a_process("models", stdout=full)
    for done in (printed, streamed, listed):
        assert done.returncode == 1
        assert done.stderr.count(b"No space left on device.") == 1
        assert b"Traceback" not in done.stderr
        assert b"Exception ignored" not in done.stderr
    without_stdin = in_a_process("upscale", "-", "-m", model, "-o", target, preexec_fn=lambda: os.close(0))
    assert without_stdin.returncode == 1
    assert b"stdin is closed. Pipe an image into srcli" in without_stdin.stderr
    without_stdout = in_a_process("upscale", photo, "-m", model, "-o", target, preexec_fn=lambda: os.close(1))
    assert without_stdout.returncode == 0
    assert read_image(target).width == 80


def test_a_reader_that_has_read_enough_is_no_error(model: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    done = in_a_process("models", stdout=write)
    os.close(write)
    assert done.stderr == b""


# what nobody foresaw


def test_an_unforeseen_error_is_one_line_and_the_others_are_done(
    srcli: Command, model: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upscale = BatchUpscaler._upscale

    def sometimes(self: BatchUpscaler, job: object, helpers: None) -> object:
        if "one.png" in str(job):
            raise ZeroDivisionError("division\nby zero")
        return upscale(self, job, helpers)  # type: ignore[arg-type]

    monkeypatch.setattr(BatchUpscaler, "_upscale", sometimes)
    result = srcli("upscale", photos, "-m", model)
    assert result.exit_code == 1
    message = f"srcli: Cannot upscale {photos / 'one.png'}: unexpected ZeroDivisionError (division by zero). Please report it, "
    assert f"{message}with the output of --verbose.\n" in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == f"{photos / 'two_x2.png'}\n"
    result = srcli("upscale", photos, "-m", model, "--overwrite", "--debug")
    assert "Traceback (most recent call last)" in result.stderr
    assert message in result.stderr


def test_an_unforeseen_error_of_a_command_is_one_line(srcli: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> None:
        raise RuntimeError("odd")

    monkeypatch.setattr("srcli.models.registry.shipped_models", fails)
    result = srcli("models")
    assert result.exit_code == 1
    assert (
        result.stderr
        == "srcli: Something went wrong: unexpected RuntimeError (odd). Please report it, with the output of --verbose.\n"
    )


# files that are made to do harm


def png_of_zeros(side: int) -> bytes:
    """A black image of 8-bit gray, whose file has a thousandth of its pixels in bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj(9)
    data = b"".join(packer.compress(bytes(side + 1)) for _ in range(side)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def test_a_small_file_with_very_many_pixels_is_rejected_by_default(srcli: Command, model: Path, photo: Path) -> None:
    bomb = photo.with_name("bomb.png")
    bomb.write_bytes(png_of_zeros(8000))
    pixels = f"8000x8000 = 64000000 pixels in only {bomb.stat().st_size} bytes"
    one_line_each(srcli("upscale", bomb, "-m", model), f"{pixels}, so it is probably not a real image.")
    one_line_each(srcli("compare-loss", bomb, photo), pixels)
    result = srcli("upscale", bomb, "-m", model, "--max-pixels", 64_000_000, "--dry-run")
    assert result.exit_code == 0
    with bomb.open("ab") as file:
        file.truncate(64_000_000 // 100)  # the size of a compressed photograph
    assert srcli("upscale", bomb, "-m", model, "--dry-run").exit_code == 0


@pytest.mark.parametrize(
    "content",
    [
        b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><rect width="5" height="5"/></svg>',
        b"1,2,3\n4,5,6\n",
        b"MATLAB 5.0 MAT-file" + bytes(200),
        b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 1 +X 1\nabcd",
    ],
)
def test_other_formats_under_the_name_of_an_image_are_rejected(
    srcli: Command, model: Path, tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(content)
    one_line_each(srcli("upscale", path, "-m", model), f"{path} is not an image, or in a format that srcli does not read")


def test_an_error_text_that_is_not_utf8_is_reported(srcli: Command, model: Path, photo: Path, tmp_path: Path) -> None:
    path = tmp_path / f"{NOT_UTF8}.tif"
    write_image(Image(np.zeros((20, 20, 3), np.uint8)), tmp_path / "a.tif")
    path.write_bytes((tmp_path / "a.tif").read_bytes()[:-30])
    result = srcli("upscale", path, photo, "-m", model)
    assert result.exit_code == 1
    assert "Traceback" not in result.stderr
    assert result.stdout == f"{photo.with_name('photo_x2.png')}\n"
