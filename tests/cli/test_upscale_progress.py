"""What `srcli upscale` shows while it runs, and that image data neither come from a terminal nor go to one."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from srcli.cli import upscale_progress
from srcli.cli.upscale_progress import UpscaleProgress
from srcli.errors import duration
from srcli.inference.batch import UpscaleResult
from srcli.inference.plan import Job
from srcli.io.image import Image
from srcli.io.read import count_pixels
from srcli.io.write import write_image

Pixels = Callable[..., np.ndarray]
COMMAND = [sys.executable, "-m", "srcli", "upscale"]


@pytest.fixture
def jobs(tmp_path: Path, pixels: Pixels) -> list[Job]:
    """Images of 100, 300 and 600 pixels."""
    sizes = {"a.png": (10, 10), "b.png": (10, 30), "c.png": (20, 30)}
    for name, size in sizes.items():
        write_image(Image(pixels(*size)), tmp_path / name)
    return [Job(tmp_path / name, tmp_path / "out" / name) for name in sizes]


def test_the_share_done_counts_the_pixels_of_all_images(
    jobs: list[Job], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(upscale_progress, "SECONDS_PER_LINE", 0)
    small, middle, large = jobs
    with UpscaleProgress(jobs) as progress:
        progress._scan.join()
        progress.start(large, 1200)  # its networks process every pixel twice
        progress.advance(large, 600)
        progress.start(small, 100)
        progress.advance(small, 100)
        progress.finish(UpscaleResult(small))
        progress.finish(UpscaleResult(middle, skipped=True))
        progress.advance(large, 600)
    shares = re.findall(r"srcli: (\d of 3) images, (\d+) %", capsys.readouterr().err)
    assert shares == [("0 of 3", "30"), ("0 of 3", "40"), ("2 of 3", "100")]


def test_nothing_is_printed_before_half_a_minute(jobs: list[Job], capsys: pytest.CaptureFixture[str]) -> None:
    with UpscaleProgress(jobs) as progress:
        progress.start(jobs[0], 100)
        progress.advance(jobs[0], 50)
    assert capsys.readouterr().err == ""


def test_pixels_are_counted_from_the_header(jobs: list[Job], tmp_path: Path) -> None:
    assert [count_pixels(job.source) for job in jobs] == [100, 300, 600]
    (tmp_path / "text.png").write_text("no image")
    assert count_pixels(tmp_path / "text.png") == count_pixels(tmp_path / "missing.png") == 0


@pytest.mark.parametrize(("seconds", "words"), [(0.4, "0 s"), (29, "29 s"), (60, "1 min"), (3700, "1 h 02 min")])
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_a_terminal_shows_one_bar_with_the_number_of_images(photos: Path, model: Path) -> None:
    controller, terminal = pty.openpty()
    command = [*COMMAND, str(photos), "-m", str(model), "-o", str(photos / "large")]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=terminal) as process:
        os.close(terminal)
        shown = b""
        while True:
            try:
                part = os.read(controller, 2**16)
            except OSError:  # on Linux, when the program has closed the terminal
                break
            if not part:
                break
            shown += part
    os.close(controller)
    assert process.returncode == 0
    assert "0 of 2" in shown.decode()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [(["-", "-o", "large.png"], "stdin is a terminal"), (["PHOTO", "-o", "-"], "stdout is a terminal")],
)
def test_image_data_in_a_terminal_are_refused_with_a_hint(photo: Path, words: list[str], sentence: str) -> None:
    controller, terminal = pty.openpty()
    command = [*COMMAND, *(word.replace("PHOTO", str(photo)) for word in words)]
    done = subprocess.run(command, check=False, stdin=terminal, stdout=terminal, stderr=subprocess.PIPE, text=True)
    os.close(terminal)
    os.close(controller)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert "Pipe one, as in" in done.stderr or "Set --output to a file" in done.stderr


def test_image_data_go_through_pipes(photo: Path, model: Path) -> None:
    command = [*COMMAND, "-", "-m", str(model), "-o", "-"]
    done = subprocess.run(command, check=True, input=photo.read_bytes(), stdout=subprocess.PIPE)
    assert done.stdout.startswith(b"\x89PNG")
