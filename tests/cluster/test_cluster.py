"""Batches on a local Ray cluster: equal results, continued runs, workers that end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from srcli.cluster.manifest import Manifest, Record
from srcli.cluster.worker import Task, Worker
from srcli.inference.batch import UpscaleOptions
from srcli.inference.plan import Size
from srcli.inference.tiling import plan_tiling
from srcli.io.image import Image
from srcli.io.storage import list_images, size_of, store
from srcli.io.write import write_image
from srcli.models.registry import describe_model
from tests.conftest import CommandResult, make_model

Command = Callable[..., CommandResult]


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=2, object_store_memory=80_000_000, include_dashboard=False, log_to_driver=False, logging_level="error")
    yield
    ray.shutdown()


@pytest.fixture
def photos(tmp_path: Path, pixels: Callable[..., np.ndarray]) -> Path:
    for number in range(6):
        write_image(Image(pixels(20, 24, seed=number)), tmp_path / "photos" / f"{number}.png")
    return tmp_path / "photos"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "manifest.jsonl"}


@pytest.mark.filterwarnings("ignore")
def test_results_equal_those_of_one_machine_and_a_run_continues(
    cluster: None, srcli: Command, photos: Path, tmp_path: Path
) -> None:
    model = make_model(tmp_path / "model.safetensors", scale=2)
    (photos / "damaged.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    alone = srcli("upscale", photos, "-o", tmp_path / "alone", "-m", model)
    command = ["upscale", photos, "-o", tmp_path / "out", "-m", model, "--cluster", "auto", "--workers", "2"]
    done = srcli(*command)
    assert alone.exit_code == done.exit_code == 1
    assert "damaged.png" in done.stderr
    assert contents(tmp_path / "out") == contents(tmp_path / "alone")
    assert sorted(Path(line).name for line in done.stdout.split()) == sorted(contents(tmp_path / "out"))

    (photos / "damaged.png").unlink()
    (tmp_path / "out" / "3_x2.png").unlink()
    again = srcli(*command, "--json")
    assert again.exit_code == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "alone")
    records = [json.loads(line) for line in again.stdout.splitlines()]
    assert [Path(record["input"]).name for record in records if not record["skipped"]] == ["3.png"]


@pytest.mark.filterwarnings("ignore")
def test_an_image_that_ends_its_worker_twice_is_set_aside(
    cluster: None, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from srcli.cluster import run

    class Fragile:
        def __init__(self, options: object) -> None: ...

        def start(self, settings: str, folder: str) -> None: ...

        def run(self, tasks: list[Task]) -> list[Record]:
            if any("3" in task.source for task in tasks):
                os._exit(1)
            return [Record(task.source, task.target) for task in tasks]

    monkeypatch.setattr(run, "Worker", Fragile)
    tasks = [Task(f"{number}.png", f"{number}_x2.png", 100) for number in range(6)]
    monkeypatch.setattr(run, "settings_of", lambda options: "")
    with run.Cluster(None, "auto", workers=1) as workers, Manifest(tmp_path / "manifest.jsonl", "") as manifest:  # type: ignore[arg-type]
        records = list(workers.run(tasks, manifest))
    assert sorted(record.input for record in records) == [task.source for task in tasks]
    assert [record.input for record in records if record.error] == ["3.png"]


def test_a_manifest_with_an_incomplete_line_is_read_and_continued(tmp_path: Path) -> None:
    path = tmp_path / "manifest.jsonl"
    with Manifest(path, "a") as manifest:
        manifest.add([{"started": ["one", "two"]}])
        manifest.add([Record("1", "one", bytes=5)])
    with path.open("a") as file:
        file.write('{"input": "2", "outp')
    with Manifest(path, "a") as manifest:
        assert manifest.bytes_of("one") == 5
        assert manifest.bytes_of("two") is None
        assert manifest.was_started("two")
        manifest.add([Record("2", "two", bytes=6)])
    with Manifest(path, "a") as manifest:
        assert manifest.bytes_of("two") == 6


def test_other_storage_lists_and_stores_whole_files(tmp_path: Path) -> None:
    pytest.importorskip("fsspec")
    (tmp_path / "a.png").write_bytes(b"abc")
    for name in ("in/a.png", "in/sub/b.png", "in/.hidden/c.png", "in/notes.txt"):
        store(tmp_path / "a.png", f"memory://{name}")
    assert [(entry.below, entry.bytes) for entry in list_images("memory://in", recursive=True)] == [
        ("a.png", 3),
        ("sub/b.png", 3),
    ]
    assert [entry.below for entry in list_images("memory://in", recursive=False)] == ["a.png"]
    assert size_of("memory://in/a.png") == 3
    assert size_of("memory://in/none.png") is None


@pytest.mark.filterwarnings("ignore")
def test_a_worker_reads_and_writes_an_s3_store(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("s3fs")
    server = pytest.importorskip("moto.server").ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    import fsspec

    try:
        fsspec.filesystem("s3", skip_instance_cache=True).mkdir("bucket")
        store(photos / "1.png", "s3://bucket/in/sub/1.png")
        options = UpscaleOptions(
            Size(scale=2), [describe_model(make_model(tmp_path / "m.safetensors", scale=2))], plan_tiling()
        )
        worker = Worker(options)
        tasks = [
            Task(entry.url, "s3://bucket/out/1_x2.png", entry.bytes) for entry in list_images("s3://bucket/in", recursive=True)
        ]
        (record,) = worker.run(tasks)
        assert record.error is None
        assert size_of("s3://bucket/out/1_x2.png") == record.bytes
        (alone,) = worker.run([Task(str(photos / "1.png"), str(tmp_path / "alone" / "1_x2.png"), 0)])
        assert alone.sha256 == record.sha256
        (existing,) = worker.run(tasks)
        assert "already exists" in str(existing.error)
    finally:
        server.stop()


def test_without_cluster_ray_is_not_imported(photos: Path, tmp_path: Path) -> None:
    code = "import sys, srcli.cli.upscale, srcli.cli.upscale_run; sys.exit('ray' in sys.modules or 'fsspec' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
