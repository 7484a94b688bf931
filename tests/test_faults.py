"""Every place where a command opens, creates, renames or removes a file fails once: one sentence, and nothing is lost."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from tests.conftest import CommandResult

Command = Callable[..., CommandResult]

EVENTS = {"open", "os.listdir", "os.scandir", "os.mkdir", "os.rename", "os.link", "os.remove", "os.chmod", "os.symlink"}
"""Audit events of Python for operations on files, whose first argument is a path."""

ERRORS = (errno.ENOSPC, errno.EACCES, errno.EIO, errno.ENAMETOOLONG)

SEED = 0
TRAININGS = 12
"""Places that are tried of a training run, chosen at random, as each takes a second."""


class Faults:
    """An audit hook that counts the operations below a folder, and lets one of them fail."""

    def __init__(self) -> None:
        self.root: Path | None = None
        self.seen: list[str] = []
        self.fail_at, self.error = -1, 0

    def __call__(self, event: str, arguments: tuple[object, ...]) -> None:
        if self.root is None or event not in EVENTS or not isinstance(arguments[0], str | bytes | os.PathLike):
            return
        path = os.fsdecode(arguments[0])
        if not path.startswith(str(self.root)):
            return
        self.seen.append(f"{event} {path.removeprefix(str(self.root))}")
        if len(self.seen) - 1 == self.fail_at:
            raise OSError(self.error, os.strerror(self.error), path)


FAULTS = Faults()


@pytest.fixture(scope="module", autouse=True)
def _hook() -> None:
    sys.addaudithook(FAULTS)  # for good, as hooks cannot be removed


@pytest.fixture
def faults() -> Iterator[Faults]:
    yield FAULTS
    FAULTS.root = None


def contents(folder: Path) -> dict[str, str]:
    """A hash of every file."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def run(faults: Faults, root: Path, srcli: Command, words: list[object], fail_at: int = -1, error: int = 0) -> CommandResult:
    faults.root, faults.seen, faults.fail_at, faults.error = root, [], fail_at, error
    try:
        return srcli(*words)
    finally:
        faults.root = None


def walk(
    faults: Faults,
    srcli: Command,
    prepare: Callable[[Path], list[object]],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    most: int | None = None,
) -> None:
    """Run the command once without a fault, then once for each operation with one. prepare: makes the files in a folder."""
    words = prepare(tmp_path / "whole")
    whole = run(faults, tmp_path / "whole", srcli, words)
    assert whole.exit_code == 0, whole.stderr
    places = list(faults.seen)
    assert len(places) > 3
    chosen = random.Random(SEED).sample(range(len(places)), min(most or len(places), len(places)))
    reported = 0
    for number in sorted(chosen):
        root = tmp_path / f"fault{number}"
        words = prepare(root)
        before = contents(root)
        error = ERRORS[number % len(ERRORS)]
        result = run(faults, root, srcli, words, number, error)
        story = f"{os.strerror(error)} at {places[number]}: exit code {result.exit_code}\n{result.stderr}"
        after = contents(root)
        assert result.exit_code in (0, 1), story
        assert "Traceback" not in result.stderr, story
        assert "unexpected" not in result.stderr, story
        reported += result.exit_code
        if result.exit_code == 1:
            assert os.strerror(error) in result.stderr, story
        assert {name: after.get(name) for name in before} == before, story
        left = [name for name in after if ".part" in name]
        assert not left or places[number].startswith("os.remove"), story
    assert reported >= len(chosen) / 4
    with capfd.disabled():
        sys.stdout.write(f" {len(chosen)} of {len(places)} places")


def test_upscale(
    srcli: Command, model: Path, photo: Path, tmp_path: Path, faults: Faults, capfd: pytest.CaptureFixture[str]
) -> None:
    def prepare(root: Path) -> list[object]:
        for name in ("in/a.png", "out/mine.png"):
            path = root / name
            path.parent.mkdir(parents=True)
            path.write_bytes(photo.read_bytes())
        return ["upscale", root / "in", "-m", model, "-o", root / "out", "--compare", root / "page.html"]

    walk(faults, srcli, prepare, tmp_path, capfd)


def test_upscale_in_place(
    srcli: Command, model: Path, photo: Path, tmp_path: Path, faults: Faults, capfd: pytest.CaptureFixture[str]
) -> None:
    def prepare(root: Path) -> list[object]:
        root.mkdir()
        (root / "a.png").write_bytes(photo.read_bytes())
        return ["upscale", root / "a.png", "-m", model, "-o", root / "b.jpg", "--overwrite"]

    walk(faults, srcli, prepare, tmp_path, capfd)


def test_compare_loss(srcli: Command, photo: Path, tmp_path: Path, faults: Faults, capfd: pytest.CaptureFixture[str]) -> None:
    def prepare(root: Path) -> list[object]:
        root.mkdir()
        for name in ("true.png", "sr.png"):
            (root / name).write_bytes(photo.read_bytes())
        return ["compare-loss", root / "true.png", root / "sr.png", "--map", root / "map.png", "--html", root / "page.html"]

    walk(faults, srcli, prepare, tmp_path, capfd)


def test_export(
    srcli: Command,
    model: Path,
    tmp_path: Path,
    faults: Faults,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("onnxscript")
    export, exported = torch.onnx.export, []

    def once(*arguments: object, **options: object) -> object:
        """The same each time, as it takes seconds and opens none of the files."""
        if not exported:
            exported.append(export(*arguments, **options))  # type: ignore[arg-type]
        return exported[0]

    monkeypatch.setattr(torch.onnx, "export", once)

    def prepare(root: Path) -> list[object]:
        root.mkdir()
        (root / "model.safetensors").write_bytes(model.read_bytes())
        return ["export", root / "model.safetensors", "-o", root / "model.onnx"]

    walk(faults, srcli, prepare, tmp_path, capfd)


def test_train(srcli: Command, photos: Path, tmp_path: Path, faults: Faults, capfd: pytest.CaptureFixture[str]) -> None:
    size = ["--channels", 8, "--blocks", 1, "--scale", 2, "--patch", 32, "--batch", 1, "--steps", 2, "--save-every", 1]

    def prepare(root: Path) -> list[object]:
        for source in photos.rglob("*.png"):
            (root / "photos").mkdir(parents=True, exist_ok=True)
            (root / "photos" / source.name).write_bytes(source.read_bytes())
        (root / "run").mkdir()
        (root / "run" / "notes.txt").write_text("mine")
        return ["train", root / "photos", *size, "--device", "cpu", "-o", root / "run", "--cache", root / "cache"]

    walk(faults, srcli, prepare, tmp_path, capfd, most=TRAININGS)
