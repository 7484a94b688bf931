"""What happens before and after the work of a cluster, without Ray: listing, planning, and the manifest."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import pytest

from srcli.cluster.manifest import Manifest, Record
from srcli.cluster.plan import BUNCH_BYTES, BUNCH_IMAGES, LARGE_BYTES, Bunches, plan_tasks
from srcli.cluster.settings import settings_of
from srcli.cluster.worker import Task
from srcli.errors import SrcliError
from srcli.inference.batch import UpscaleOptions
from srcli.inference.plan import DEFAULT_NAME, Names, Size
from srcli.inference.tiling import plan_tiling
from srcli.io.storage import list_images, size_of, store
from srcli.models.registry import describe_model
from tests.conftest import make_model

NAMES = Names(DEFAULT_NAME, Size(scale=2), None, "model")


def test_a_manifest_with_an_incomplete_line_is_read_and_continued(tmp_path: Path) -> None:
    path = tmp_path / "manifest.jsonl"
    with Manifest(path, "a") as manifest:
        manifest.add([{"started": ["one", "two"]}, Record("1", "one", bytes=4), Record("1", "one", bytes=5)])
    with path.open("a") as file:
        file.write('{"input": "2", "outp')
    with Manifest(path, "a") as manifest:
        assert manifest.bytes_of("one") == 5
        assert manifest.bytes_of("two") is None
        assert manifest.was_started("two")
        assert not manifest.was_started("three")
        manifest.add([Record("2", "two", bytes=6)])
    with Manifest(path, "a") as manifest:
        assert manifest.bytes_of("two") == 6


def test_a_manifest_in_use_or_of_another_batch_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "manifest.jsonl"
    with Manifest(path, "a"), pytest.raises(SrcliError, match="Another batch is using"):
        Manifest(path, "a")
    with pytest.raises(SrcliError, match="other options or models"):
        Manifest(path, "b")
    with Manifest(path, "a"):
        pass  # refusals left no lock
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8\xff\n")
    with pytest.raises(SrcliError, match="is no manifest"):
        Manifest(tmp_path / "photo.jpg", "a")
    assert (tmp_path / "photo.jpg").read_bytes() == b"\xff\xd8\xff\n"


def test_settings_differ_with_the_weights_of_a_model(tmp_path: Path) -> None:
    def settings(scale: int) -> str:
        model = describe_model(make_model(tmp_path / "model.safetensors", scale=scale))
        return settings_of(UpscaleOptions(Size(scale=2), [model], plan_tiling()))

    assert settings(2) == settings(2) != settings(3)


def test_other_storage_lists_and_stores_whole_files(tmp_path: Path) -> None:
    pytest.importorskip("fsspec")
    (tmp_path / "a.png").write_bytes(b"abc")
    for name in ("in/a.png", "in/sub/b.png", "in/.hidden/c.png", "in/notes.txt"):
        store(tmp_path / "a.png", f"memory://{name}")
    listed = sorted((entry.below, entry.bytes) for entry in list_images("memory://in", recursive=True))
    assert listed == [("a.png", 3), ("sub/b.png", 3)]
    assert [entry.below for entry in list_images("memory://in", recursive=False)] == ["a.png"]
    assert size_of("memory://in/a.png") == 3
    assert size_of("memory://in/none.png") is None
    with pytest.raises(SrcliError, match="does not exist"):
        list(list_images("memory://nowhere", recursive=True))


def test_tasks_of_s3_are_planned_page_by_page(monkeypatch: pytest.MonkeyPatch) -> None:
    class Store:
        """A bucket with ten million images in one folder."""

        req_kw: ClassVar[dict[str, str]] = {}
        pages = 0

        def info(self, path: str) -> dict[str, object]:
            return {"type": "directory"}

        def unstrip_protocol(self, path: str) -> str:
            return f"s3://{path}"

        def call_s3(self, *_: object, MaxKeys: int, ContinuationToken: int = 0, **others: object) -> dict[str, Any]:  # noqa: N803
            self.pages += 1
            places = range(ContinuationToken, ContinuationToken + MaxKeys)
            contents = [{"Key": f"photos/{place:08d}.jpg", "Size": 1000} for place in places]
            return {"Contents": contents, "IsTruncated": places.stop < 10**7, "NextContinuationToken": places.stop}

    files = Store()
    monkeypatch.setattr("srcli.io.storage._open", lambda url: (files, url.removeprefix("s3://")))
    tasks = plan_tasks(["s3://bucket/photos"], "s3://bucket/large", NAMES, recursive=False)
    assert next(tasks) == Task("s3://bucket/photos/00000000.jpg", "s3://bucket/large/00000000_x2.jpg", 1000)
    assert files.pages == 1
    assert len(list(islice(tasks, 2500))) == 2500
    assert files.pages == 3


def test_results_below_the_input_are_no_images(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (photos / "large").mkdir()
    (photos / "large" / "one_x2.png").write_bytes(b"")
    monkeypatch.chdir(photos.parent)
    planned = plan_tasks(["photos"], f"{photos}/large/", NAMES, recursive=True)
    assert sorted(Path(task.source if isinstance(task, Task) else "").as_posix() for task in planned) == [
        "photos/below/three.png",
        "photos/one.png",
        "photos/two.png",
    ]


def test_images_that_would_become_one_file_and_missing_folders_are_named(photos: Path) -> None:
    (photos / "one.bmp").write_bytes(b"")
    planned = list(plan_tasks([str(photos), "nowhere"], "out", NAMES, recursive=False))
    problems = [record.error or "" for record in planned if isinstance(record, Record)]
    assert len(planned) == 4
    assert "would both become out/one_x2.png" in problems[0]
    assert "nowhere does not exist" in problems[1]


def test_large_images_do_not_keep_small_ones_waiting() -> None:
    def tasks() -> Iterator[Task]:
        yield from (Task(f"large {number}", "", LARGE_BYTES) for number in range(5))
        yield from (Task(f"small {number}", "", BUNCH_BYTES // 8) for number in range(10))
        yield from (Task(f"done {number}", "", LARGE_BYTES, done=1) for number in range(BUNCH_IMAGES))

    bunches = Bunches(tasks())
    assert [task.source for task in bunches.next(large=True)] == ["large 0"]
    assert [task.source for task in bunches.next(large=False)] == [f"small {number}" for number in range(8)]
    assert [task.source for task in bunches.next(large=True)] == ["large 1"]
    assert len(bunches.next(large=False)) == BUNCH_IMAGES  # two small ones, and results that are only looked up
    assert len(bunches.next(large=False)) == 2
    assert bunches.next(large=False) == []
    assert [bunches.next(large=True)[0].source for _ in range(3)] == ["large 2", "large 3", "large 4"]
    assert bunches.next(large=True) == []
