"""RUN/report.html: what it shows, that it survives resuming, and that it never ends training."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from srcli.training import report
from srcli.training.report import MOST_SNAPSHOTS, SIDE, thinned
from srcli.training.validation import Sample
from tests.conftest import CommandResult, dom_of, needs_browser

Command = Callable[..., CommandResult]

SIZE = ["--channels", 8, "--blocks", 1, "--scale", 2, "--patch", 32, "--batch", 2, "--device", "cpu"]


def test_many_steps_are_thinned_evenly() -> None:
    kept: list[int] = []
    for step in [0, 3, *range(10, 1001, 10)]:
        kept = thinned([*kept, step], 24)
        assert kept[0] == 0
        assert kept[-1] == step
    assert len(kept) == 24
    gaps = np.diff(kept)
    assert gaps.max() <= 4 * gaps.min()
    assert thinned([1, 2, 3], 24) == [1, 2, 3]


def test_the_page_has_a_limited_size() -> None:
    """Noise, which no photograph exceeds."""
    random = np.random.default_rng(0)
    noise = [random.integers(0, 256, (side, side, 3), dtype=np.uint8) for side in (64, 256)]
    samples = [Sample(name, noise[0], noise[1], noise[1], noise[1]) for name in "abcde"]
    assert len(report._jpeg(report._stack(samples, "sr"))) * MOST_SNAPSHOTS * 4 / 3 < 15e6


def test_all_images_show_the_same_part() -> None:
    lr = np.random.default_rng(0).integers(0, 256, (60, 71, 3), dtype=np.uint8)
    hr = lr.repeat(4, axis=0).repeat(4, axis=1)
    low = lr[:33]
    samples = [Sample("a", lr, hr, hr, hr), Sample("b", low, hr[:132], hr[:132], hr[:132])]
    small, large = report._stack(samples, "lr"), report._stack(samples, "hr")
    assert small.shape == (66, 33, 3)
    np.testing.assert_array_equal(small.repeat(4, axis=0).repeat(4, axis=1), large)
    assert report._side([samples[0]]) == SIDE


def test_the_page_survives_resuming(srcli: Command, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "a <b>run"
    draw, drawn = report.draw_curves, []
    monkeypatch.setattr(report, "draw_curves", lambda rows, path: (drawn.append(len(rows)), draw(rows, path)))
    assert srcli("train", photos, *SIZE, "--steps", 2, "--val-every", 1, "-o", run).exit_code == 0
    assert min(drawn) > 1  # not before the first step
    page = (run / "report.html").read_text()
    assert "Finished: step 2 of 2" in page
    assert "http" not in re.sub(r"http://www\.w3\.org/\d+/\w+", "", page)  # only the namespaces of SVG
    assert "<b>run" not in page
    assert sorted(path.name for path in (run / "samples").iterdir()) == [f"{step:08d}.jpg" for step in range(3)]
    with Image.open(run / "samples" / "00000002.jpg") as image:
        assert image.size == (72, 72)  # 80 rows less a rim of 4 on each side
    first = (run / "samples" / "00000000.jpg").read_bytes()
    (run / "samples" / "00000003.jpg").write_bytes(b"of a killed process")
    assert srcli("train", "--resume", run, "--steps", 3, "--device", "cpu").exit_code == 0
    assert (run / "samples" / "00000000.jpg").read_bytes() == first
    assert (run / "samples" / "00000003.jpg").read_bytes() != b"of a killed process"
    page = (run / "report.html").read_text()
    for step in range(4):
        assert re.search(rf'"label": "step {step}: \d+\.\d\d dB"', page)
    assert "<td>val_every</td><td>1</td>" in page


def test_without_validation_the_page_shows_curves_and_settings(srcli: Command, photos: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert srcli("train", photos, *SIZE, "--steps", 2, "--val-split", 0, "-o", run).exit_code == 0
    page = (run / "report.html").read_text()
    assert page.count("<svg") == 2
    assert "Validation photographs" not in page
    assert (run / "curves.png").exists()
    assert not (run / "samples").exists()


def test_a_page_that_cannot_be_written_does_not_end_training(
    srcli: Command, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ValueError("a bug")

    monkeypatch.setattr("srcli.training.report.Image.Image.save", fail)
    result = srcli("train", photos, *SIZE, "--steps", 1, "-o", tmp_path / "run")
    assert result.exit_code == 0
    assert "The run could not be drawn, but training goes on." in result.stderr
    assert (tmp_path / "run" / "model.safetensors").exists()


@needs_browser
def test_the_slider_shows_other_steps(srcli: Command, photos: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert srcli("train", photos, *SIZE, "--steps", 2, "--val-every", 1, "-o", run).exit_code == 0
    page = run / "report.html"
    acts = """<script>
      const slider = document.getElementById("step"), root = document.documentElement;
      const shown = () => getComputedStyle(document.querySelectorAll(".part")[2]).backgroundImage;
      const before = shown(), label = document.getElementById("label").textContent;
      slider.value = 0;
      slider.dispatchEvent(new Event("input"));
      document.title = [
        slider.max,
        label.split(":")[0],
        document.getElementById("label").textContent.split(":")[0],
        before.startsWith('url("data:image/jpeg') && before === `url("${snapshots[2].image}")`,
        shown() === `url("${snapshots[0].image}")`,
        [...document.querySelectorAll(".part")].every(part => part.clientWidth === part.clientHeight && part.clientWidth > 100),
        root.scrollWidth <= window.innerWidth,
      ].join(", ");
    </script>"""
    page.write_text(page.read_text().replace("</body>", acts + "</body>"))
    assert "<title>2, step 2, step 0, true, true, true, true</title>" in dom_of(page)
