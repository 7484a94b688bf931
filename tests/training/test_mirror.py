"""The copy of a run's folder at a URL, and continuing from it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from srcli.errors import SrcliError
from srcli.training.progress import NoProgress
from srcli.training.run import train

fsspec = pytest.importorskip("fsspec")


class Messages(NoProgress):
    def __init__(self) -> None:
        self.messages: list[str] = []

    def message(self, text: str) -> None:
        self.messages.append(text)


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    url = f"memory://{tmp_path.name}/run"
    yield url
    fsspec.filesystem("memory").store.clear()


@pytest.fixture
def settings(photos: Path, tmp_path: Path, url: str) -> dict[str, Any]:
    sizes = {"channels": 8, "blocks": 1, "scale": 2, "patch": 32, "batch": 1, "device": "cpu", "val-split": 0, "warmup": 0}
    files = {"photos": str(photos), "output": str(tmp_path / "run"), "cache": "none", "mirror": url}
    return {**sizes, **files, "generator": "compact", "steps": 3}


def stop_after(steps: int) -> Callable[[], bool]:
    calls = iter(range(1, 100))
    return lambda: next(calls) >= steps


def steps_of(run: Path) -> int:
    return int(torch.load(run / "checkpoint.pt")["steps"])


def test_another_machine_continues_from_the_mirror(settings: dict[str, Any], tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(settings, interrupted=stop_after(2))
    copied = {path.relative_to(run): path.read_bytes() for path in run.rglob("*") if path.is_file()}
    shutil.rmtree(run)
    progress = Messages()
    train(settings, interrupted=stop_after(1), progress=progress)
    assert any("contains this run up to step 2" in message for message in progress.messages)
    assert {path.name for path in copied} <= {path.name for path in run.iterdir()}
    assert steps_of(run) == 3
    alone = tmp_path / "alone"
    train(settings | {"output": str(alone), "mirror": str(tmp_path / "copy")})
    ours, theirs = (torch.load(folder / "checkpoint.pt")["generator"] for folder in (run, alone))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert (tmp_path / "copy" / "checkpoint.pt").read_bytes() == (alone / "checkpoint.pt").read_bytes()


def test_the_folder_is_replaced_only_by_a_later_state_of_the_same_run(settings: dict[str, Any], tmp_path: Path) -> None:
    run, old = tmp_path / "run", tmp_path / "old"
    train(settings, interrupted=stop_after(1))
    shutil.copytree(run, old)
    train(settings, interrupted=stop_after(1))
    assert steps_of(run) == 2
    shutil.rmtree(run)
    shutil.copytree(old, run)
    train(settings, interrupted=stop_after(1))  # from step 2 of the mirror
    assert steps_of(run) == 3
    with pytest.raises(SrcliError, match="contains another run"):
        train(settings | {"output": str(tmp_path / "other"), "lr": 0.001})
    assert not (tmp_path / "other").exists()


def test_a_mirror_that_fails_is_reported_and_does_not_end_training(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path, url: str) -> None:
        raise TimeoutError("the network is down")

    monkeypatch.setattr("srcli.training.mirror.store", fail)
    progress = Messages()
    with pytest.raises(SrcliError, match="the network is down"):
        train(settings | {"save_every": 1}, progress=progress)
    assert sum("Training goes on" in message for message in progress.messages) == 3
    assert steps_of(tmp_path / "run") == 3


def test_a_url_is_no_folder_for_a_run(settings: dict[str, Any]) -> None:
    with pytest.raises(SrcliError, match="`mirror` copies it to s3://bucket/run"):
        train(settings | {"output": "s3://bucket/run"})
