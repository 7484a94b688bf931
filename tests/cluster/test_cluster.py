"""Batches on a local Ray cluster: equal results, continued runs, workers that end."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("ray")
from ray.exceptions import RayActorError, RayTaskError

from srcli.cluster import run
from srcli.cluster.manifest import Manifest, Record
from srcli.cluster.plan import LARGE_BYTES
from srcli.cluster.shared import SharedBackend, TileHelpers
from srcli.cluster.worker import Task, Worker
from srcli.errors import SrcliError
from srcli.inference.batch import UpscaleOptions
from srcli.inference.plan import Size
from srcli.inference.tiling import plan_tiling
from srcli.io.image import Image
from srcli.io.storage import list_images, size_of, store
from srcli.io.write import write_image
from srcli.models.registry import describe_model
from tests.conftest import CommandResult, FakeBackend, make_model, repeated

Command = Callable[..., CommandResult]


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    from cluster import local_cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_worker_niceness", "0")  # which local_cluster sets, and this undoes
        with local_cluster(2):
            yield


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
    command = ["upscale", photos, "-o", tmp_path / "out", "-m", model, "--cluster", "auto"]
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
    (record,) = (record for record in records if not record["skipped"])
    assert Path(record["input"]).name == "3.png"
    assert record["denoise"] is None  # as a model was chosen


@pytest.mark.filterwarnings("ignore")
def test_a_dry_run_estimates_the_batch_and_writes_nothing(cluster: None, srcli: Command, photos: Path, tmp_path: Path) -> None:
    model = make_model(tmp_path / "model.safetensors", scale=2)
    (photos / "damaged.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    done = srcli("upscale", photos, "-o", tmp_path / "out", "-m", model, "--cluster", "auto", "--dry-run", "--json")
    assert done.exit_code == 1
    assert "damaged.png" in done.stderr
    assert not (tmp_path / "out").exists()
    found = json.loads(done.stdout)
    assert (found["images"], found["sample"], found["failed"], found["workers"]) == (7, 7, 1, 1)
    assert found["bytes"] == sum(path.stat().st_size for path in photos.iterdir())
    assert found["result_bytes"] > found["bytes"]
    assert found["seconds"] > 0
    assert found["node_hours"] == pytest.approx(found["nodes"] * found["seconds"] / 3600)
    assert found["spread"] == 0  # all of them are the sample


class FakeRay:
    """Runs calls at once. Those of a worker fail from the call on that contains an image of a bad name."""

    def __init__(self) -> None:
        self.results: list[object] = []
        self.calls: list[list[str]] = []
        self.late = 6  # calls of `wait` until workers start

    def new_worker(self) -> SimpleNamespace:
        dead: list[RayActorError] = []

        def run(tasks: list[Task], _others: list[object]) -> int:
            self.calls.append([task.source for task in tasks])
            if any("bad" in task.source for task in tasks):
                dead.append(RayActorError())
            return self.refer(dead[0] if dead else [Record(task.source, task.target, bytes=1) for task in tasks])

        calls = {"start": lambda *_: self.refer(None), "stop": lambda: None, "run": run}
        return SimpleNamespace(**{name: SimpleNamespace(remote=call) for name, call in calls.items()})

    def refer(self, result: object) -> int:
        self.results.append(result)
        return len(self.results) - 1

    def wait(self, references: list[int], **_: object) -> tuple[list[int], list[int]]:
        self.late -= 1
        return ([], references) if self.late > 0 else (references, [])

    def get(self, reference: int) -> object:
        result = self.results[reference]
        if isinstance(result, Exception):
            raise result
        return result

    def kill(self, worker: object) -> None: ...


def run_fake(monkeypatch: pytest.MonkeyPatch, tasks: list[Task], path: Path, notes: list[str]) -> tuple[FakeRay, list[Record]]:
    fake = FakeRay()
    monkeypatch.setattr(run, "ray", fake)
    cluster = object.__new__(run.Cluster)
    cluster.workers, cluster.cpus = 2, 16
    cluster._new_seat = lambda: run._Seat(fake.new_worker(), "")
    with Manifest(path, "") as manifest:
        return fake, list(cluster.run(iter(tasks), manifest, notes.append))


def test_an_image_that_ends_its_worker_twice_is_set_aside_and_no_other(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    names = [f"{number}.png" for number in range(40)] + ["bad.png"] + [f"{number}.png" for number in range(41, 200)]
    fake, records = run_fake(monkeypatch, [Task(name, f"out/{name}", 100) for name in names], tmp_path / "manifest.jsonl", [])
    assert sorted(record.input for record in records) == sorted(names)
    assert [record.input for record in records if record.error] == ["bad.png"]
    assert fake.calls.count(["bad.png"]) == run.MAX_KILLS
    lines = [json.loads(line) for line in (tmp_path / "manifest.jsonl").read_text().splitlines()]
    assert sorted(line["input"] for line in lines if "input" in line) == sorted(names)


def test_workers_that_end_again_and_again_end_the_batch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tasks = [Task(f"bad {number}.png", f"{number}.png", 100) for number in range(1000)]
    with pytest.raises(SrcliError, match="20 workers ended without a result"):
        run_fake(monkeypatch, tasks, tmp_path / "manifest.jsonl", [])


def test_a_cluster_without_room_is_reported_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(run, "SECONDS_TO_START", -1)
    notes: list[str] = []
    run_fake(monkeypatch, [Task("a.png", "a_x2.png", 100)], tmp_path / "manifest.jsonl", notes)
    assert notes == ["Waiting for 16 free CPUs on a node of the cluster."]


@pytest.mark.filterwarnings("ignore")
def test_killed_workers_and_drivers_leave_every_result_once(cluster: None, tmp_path: Path) -> None:
    import ray
    from cluster import kills

    address = ray.get_runtime_context().gcs_address
    words = ["-m", str(make_model(tmp_path / "model.safetensors", scale=2))]
    assert kills(address, tmp_path, images=40, workers=1, kills=1, restarts=1, seed=0, words=words) == []


@pytest.mark.filterwarnings("ignore")
def test_all_workers_compute_the_tiles_of_a_large_image(cluster: None, photos: Path, tmp_path: Path) -> None:
    import ray

    model = make_model(tmp_path / "model.safetensors", scale=2)
    large = photos / "large.png"
    write_image(Image(np.tile(np.random.default_rng(0).integers(0, 256, (40, 60, 4), np.uint8), (5, 5, 1))), large)
    options = UpscaleOptions(Size(scale=2), [describe_model(model)], plan_tiling(32))
    (alone,) = Worker(options, 0).run([Task(str(large), str(tmp_path / "alone.png"), LARGE_BYTES)])
    assert alone.error is None
    tasks = [Task(str(photos / "1.png"), str(tmp_path / "1.png"), 100)]
    tasks += [Task(str(large), str(tmp_path / f"large{number}.png"), LARGE_BYTES) for number in range(3)]
    address = ray.get_runtime_context().gcs_address
    with Manifest(tmp_path / "manifest.jsonl", "") as manifest:
        cluster_ = run.Cluster(options, address, workers=2, shared_pixels=200 * 300)
        records = {Path(record.output).name: record for record in cluster_.run(tasks, manifest)}
    assert [record.error for record in records.values()] == [None] * 4
    assert not str(records["1.png"].device).endswith("workers")
    for name in ("large0.png", "large1.png", "large2.png"):
        assert (tmp_path / name).read_bytes() == (tmp_path / "alone.png").read_bytes()
    assert any(str(record.device).endswith(" on 2 workers") for record in records.values())


class FakeWorkers:
    """Workers that double pixels. Those of bad numbers fail in their second call."""

    def __init__(self, bad: dict[int, Exception]) -> None:
        self.calls = [0, 0, 0]
        self.bad = bad

    def __getitem__(self, number: int) -> SimpleNamespace:
        def remote(place: int, lr: np.ndarray) -> np.ndarray | Exception:
            assert place == 7
            self.calls[number] += 1
            if number in self.bad and self.calls[number] >= 2:
                return self.bad[number]
            sr = doubled(lr)
            sr.flags.writeable = False
            return sr

        return _Worker(upscale_tile=SimpleNamespace(remote=remote), is_up=SimpleNamespace(remote=lambda: number))


class _Worker(SimpleNamespace):
    """Hashed by its identity."""

    __hash__ = object.__hash__


def doubled(lr: np.ndarray) -> np.ndarray:
    time.sleep(0.002)
    return repeated(lr)


def shared(monkeypatch: pytest.MonkeyPatch, workers: FakeWorkers) -> SharedBackend:
    def get(found: np.ndarray | Exception) -> np.ndarray:
        if isinstance(found, Exception):
            raise found
        return found

    def wait(references: list[int], *, num_returns: int, timeout: float) -> tuple[list[int], list[int]]:
        """The last worker never starts."""
        assert (num_returns, timeout) == (len(references), 0)
        return [number for number in references if number != 2], [2]

    monkeypatch.setattr("srcli.cluster.shared.ray", SimpleNamespace(get=get, wait=wait))
    here = FakeBackend(doubled, bytes_per_pixel=100)
    return TileHelpers([workers[number] for number in range(3)], 0).join(here, 7)


def test_tiles_of_a_worker_that_ends_are_computed_here(monkeypatch: pytest.MonkeyPatch) -> None:
    workers = FakeWorkers({1: RayActorError()})
    backend = shared(monkeypatch, workers)
    lr = np.random.default_rng(0).random((3, 5, 6), np.float32)
    with ThreadPoolExecutor(8) as pool:
        for sr in pool.map(backend, [lr] * 100):
            np.testing.assert_array_equal(sr, doubled(lr))
            sr += 1  # the caller may
    assert workers.calls[1] >= 2
    assert workers.calls[2] == 0
    assert backend.description == "here on 3 workers"
    assert backend.bytes_per_pixel > 100


def test_what_the_network_of_a_worker_raises_is_raised_here(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = shared(monkeypatch, FakeWorkers({0: RayTaskError("upscale_tile", "", MemoryError())}))
    lr = np.zeros((3, 2, 2), np.float32)
    with ThreadPoolExecutor(8) as pool, pytest.raises(MemoryError):
        list(pool.map(backend, [lr] * 100))
    assert not any(backend._calls.values())


def test_workers_share_the_cpus_of_their_nodes() -> None:
    small, large, head = {"CPU": 4.0}, {"CPU": 16.0, "GPU": 2.0}, {"CPU": 0.0}
    assert run.shares([small], None, 0) == (1, 4)
    assert run.shares([small], 3, 0) == (3, 1)
    assert run.shares([head, small, small], None, 0) == (2, 4)
    assert run.shares([small, large], None, 0) == (5, 4)
    assert run.shares([small, large], None, 0.5) == (4, 4)  # on the node with GPUs
    for nodes, workers, gpus in (([head], None, 0), ([small], 5, 0), ([small], None, 1), ([large], 5, 0.5)):
        with pytest.raises(SrcliError, match="too few"):
            run.shares(nodes, workers, gpus)


def test_names_with_the_size_of_the_result_are_refused(srcli: Command, photos: Path, tmp_path: Path) -> None:
    result = srcli("upscale", photos, "-o", tmp_path / "out", "--cluster", "auto", "--name", "{stem}_{width}.{ext}")
    assert result.exit_code == 2
    assert "--name without width" in " ".join(result.stderr.split())


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
        for name in ("a.jpg", "b.txt", "sub/1.png", "sub/.hidden/2.png", "z.png"):
            store(photos / "1.png", f"s3://bucket/in/{name}")
        monkeypatch.setattr("srcli.io.storage.PAGE", 2)
        assert [entry.below for entry in list_images("s3://bucket/in", recursive=True)] == ["a.jpg", "sub/1.png", "z.png"]
        assert [entry.below for entry in list_images("s3://bucket/in", recursive=False)] == ["a.jpg", "z.png"]
        assert [entry.below for entry in list_images("s3://bucket/in/z.png", recursive=False)] == ["z.png"]
        options = UpscaleOptions(
            Size(scale=2), [describe_model(make_model(tmp_path / "m.safetensors", scale=2))], plan_tiling()
        )
        worker = Worker(options, run.SHARED_PIXELS)
        tasks = [
            Task(entry.url, "s3://bucket/out/1_x2.png", entry.bytes)
            for entry in list_images("s3://bucket/in/sub", recursive=True)
        ]
        (record,) = worker.run(tasks)
        assert record.error is None
        assert size_of("s3://bucket/out/1_x2.png") == record.bytes
        (alone,) = worker.run([Task(str(photos / "1.png"), str(tmp_path / "alone" / "1_x2.png"), 0)])
        assert alone.sha256 == record.sha256
        (existing,) = worker.run(tasks)
        assert "already exists" in str(existing.error)
        (own,) = worker.run([replace(task, may_exist=True) for task in tasks])
        assert (own.error, own.skipped, own.sha256) == (None, False, record.sha256)
        (recorded,) = worker.run([replace(task, done=record.bytes) for task in tasks])
        assert (recorded.error, recorded.skipped) == (None, True)
    finally:
        server.stop()


def test_without_cluster_ray_is_not_imported(photos: Path, tmp_path: Path) -> None:
    code = "import sys, srcli.cli.upscale, srcli.cli.upscale_run; sys.exit('ray' in sys.modules or 'fsspec' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
