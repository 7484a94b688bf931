"""Photographs read in chunks: from folders that do not fit, and from shards, in several processes, and resumed."""

import io
import tarfile
from collections import Counter
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch

from srcli.config import TrainConfig
from srcli.errors import ConfigError, SrcliError
from srcli.io.image import Image
from srcli.io.write import write_image
from srcli.training import photos as run_photos
from srcli.training import stream
from srcli.training.dataset import PhotoDataset
from srcli.training.photos import Reading, read_photos, too_large
from srcli.training.shards import ShardSource, are_shards
from srcli.training.stream import FolderSource, Part, Position, Source, StreamedPhotos
from tests.conftest import CommandResult
from tests.training.test_trainer import tiny

Command = Callable[..., CommandResult]
Pixels = Callable[..., np.ndarray]

SHARDS, SAMPLES = 5, 4


@pytest.fixture
def folder(tmp_path: Path, pixels: Pixels) -> Path:
    """Twenty PNGs of 40x48."""
    for number in range(SHARDS * SAMPLES):
        write_image(Image(pixels(40, 48, seed=number)), tmp_path / "many" / f"{number:02d}.png")
    return tmp_path / "many"


@pytest.fixture
def shards(folder: Path, tmp_path: Path) -> str:
    """The same photographs in five shards, each sample with a text and a class as well."""
    paths = sorted(folder.iterdir())
    for number in range(SHARDS):
        with tarfile.open(tmp_path / f"shard-{number}.tar", "w") as tar:
            for path in paths[number * SAMPLES : (number + 1) * SAMPLES]:
                tar.add(path, f"photos/{path.name}")
                for ending in ("txt", "cls"):
                    member = tarfile.TarInfo(f"photos/{path.stem}.{ending}")
                    member.size = 1
                    tar.addfile(member, io.BytesIO(b"1"))
    return str(tmp_path / f"shard-{{0..{SHARDS - 1}}}.tar")


def source_of(kind: str, folder: Path, shards: str, rank: int = 0, size: int = 1) -> Source:
    part = Part(7, rank, size)
    return ShardSource(shards, part) if kind == "shards" else FolderSource(sorted(folder.iterdir()), part, megapixels=1)


def short(name: str) -> str:
    """`03.png` for its path, and for the sample in a shard."""
    return Path(name.split(" in ")[0]).name


BEGIN = Position()


def names(source: Source, count: int, start: Position = BEGIN) -> list[str]:
    return [short(name) for name, _, _ in islice(source.read(start), count)]


@pytest.mark.parametrize("kind", ["folder", "shards"])
def test_two_processes_read_all_photographs_without_overlap(kind: str, folder: Path, shards: str) -> None:
    """In each epoch, in another order."""
    sources = [source_of(kind, folder, shards, rank, 2) for rank in range(2)]
    counts = [12, 8] if kind == "shards" else [10, 10]  # three shards and two
    first, second = (
        [names(source, count, Position(epoch)) for source, count in zip(sources, counts, strict=True)] for epoch in (0, 1)
    )
    everything = sorted(path.name for path in folder.iterdir())
    for epoch in (first, second):
        assert sorted(epoch[0] + epoch[1]) == everything
    assert first != second
    assert names(sources[0], 2 * counts[0]) == first[0] + second[0]


@pytest.mark.parametrize("kind", ["folder", "shards"])
def test_reading_goes_on_at_a_position(kind: str, folder: Path, shards: str) -> None:
    source = source_of(kind, folder, shards)
    read = list(islice(source.read(Position()), 45))
    for number in (0, 2, 3, 4, 18, 19, 20, 30):
        after = list(islice(source.read(read[number][2]), 5))
        assert [name for name, *_ in after] == [name for name, *_ in read[number + 1 : number + 6]]
        assert [position for *_, position in after] == [position for *_, position in read[number + 1 : number + 6]]
    np.testing.assert_array_equal(read[0][1], read[[name for name, *_ in read].index(read[0][0], 1)][1])
    assert source.epochs(read[19][2]) == 1
    assert source.epochs(read[18][2]) < 1


def chunks_of(source: Source, steps: range, **options: object) -> list[tuple[str, ...]]:
    photos = StreamedPhotos(source, smallest=40, steps_per_chunk=3, first=steps.start, **options)  # type: ignore[arg-type]
    found = [photos.at(step).names for step in steps]
    photos.close()
    return found


@pytest.mark.parametrize("kind", ["folder", "shards"])
def test_a_resumed_run_gets_the_same_chunks(kind: str, folder: Path, shards: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "CHUNK_PIXELS", 6 * 40 * 48)
    source = source_of(kind, folder, shards)
    whole = chunks_of(source, range(24))
    assert [len(chunk) for chunk in whole] == [6] * 24
    assert Counter(short(name) for chunk in whole[:9:3] for name in chunk).most_common(1)[0][1] == 1
    photos = StreamedPhotos(source, smallest=40, steps_per_chunk=3)
    for step in range(11):
        photos.at(step)
    position = photos.position(10)
    photos.close()
    assert chunks_of(source, range(10, 24), start=position) == whole[10:]


def test_a_chunk_is_at_most_an_epoch(folder: Path, shards: str) -> None:
    for kind in ("folder", "shards"):
        (chunk,) = chunks_of(source_of(kind, folder, shards), range(1))
        assert sorted(map(short, chunk)) == sorted(path.name for path in folder.iterdir())


def test_photographs_that_cannot_be_used_are_left_out_and_named(folder: Path, tmp_path: Path, pixels: Pixels) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name in ("00.png", "01.png"):
            tar.add(folder / name, name)
        write_image(Image(pixels(20, 48)), tmp_path / "small.png")
        tar.add(tmp_path / "small.png", "small.png")
        member = tarfile.TarInfo("bad.jpg")
        member.size = 5
        tar.addfile(member, io.BytesIO(b"wrong"))
    whole = (tmp_path / "a.tar").read_bytes()
    (tmp_path / "b.tar").write_bytes(whole[: 512 + 100])
    (tmp_path / "c.tar").write_bytes(b"")
    source = ShardSource(f"{tmp_path}/{{a,b,c}}.tar", Part(0))
    sentences: list[str] = []
    (chunk,) = chunks_of(source, range(1), on_left_out=sentences.append)
    assert sorted(map(short, chunk)) == ["00.png", "01.png"]
    text = "\n".join(sorted(sentences))
    assert f"bad.jpg in {tmp_path}/a.tar" in text
    assert f"small.png in {tmp_path}/a.tar is 48x20 pixels; training needs at least 40x40" in text
    assert f"Cannot read {tmp_path}/b.tar: " in text
    assert f"{tmp_path}/c.tar" in text
    with pytest.raises(SrcliError):
        chunks_of(source, range(1), strict=True)
    with pytest.raises(SrcliError, match=r"c\.tar"):  # no photograph in a whole epoch
        chunks_of(ShardSource(f"{tmp_path}/c.tar", Part(0)), range(1))


def test_shards_at_a_url(shards: str, folder: Path) -> None:
    memory = fsspec.filesystem("memory")
    for number in range(2):
        memory.pipe(f"/bucket/{number}.tar", Path(shards.replace("{0..4}", str(number))).read_bytes())
    source = ShardSource("memory://bucket/{0..2}.tar", Part(0))
    sentences: list[str] = []
    (chunk,) = chunks_of(source, range(1), on_left_out=sentences.append)
    assert sorted(map(short, chunk)) == sorted(path.name for path in folder.iterdir())[: 2 * SAMPLES]
    assert len(sentences) == 1
    assert sentences[0].startswith("Cannot read memory://bucket/2.tar: ")


@pytest.mark.parametrize(
    ("pattern", "shards"),
    [("a/{00..10}.tar", True), ("s3://bucket/a.tar.gz", True), ("photos", False), ("a.tgz", True), ("photos/a.png", False)],
)
def test_what_is_taken_for_shards(pattern: str, shards: bool) -> None:
    assert are_shards(pattern) is shards


def test_shards_that_cannot_be_read_are_refused_in_one_sentence(shards: str, tmp_path: Path) -> None:
    with pytest.raises(SrcliError, match=r"^There is no shard .*9\.tar\. Check the path\.$"):
        ShardSource(str(tmp_path / "9.tar"), Part(0))
    with pytest.raises(SrcliError, match=r"^There are only 5 shards for 6 processes, .*smaller shards\.$"):
        ShardSource(shards, Part(0, 0, 6))
    with pytest.raises(SrcliError, match="The braces in"):
        ShardSource(str(tmp_path / "{0..9.tar"), Part(0))


# the decision


def config_of(folder: Path, **changes: object) -> TrainConfig:
    return tiny(**{"photos": str(folder), "val_split": 0.1, "cache": "none"} | changes)


def test_a_folder_that_does_not_fit_is_read_in_chunks(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert too_large(config_of(folder)) == ""
    with monkeypatch.context() as patch:
        patch.setattr(run_photos, "free_memory", lambda: 100_000)  # 20 photographs take 115,200 bytes
        assert "only 0.0 GB are free in memory, so they are read in chunks" in too_large(config_of(folder))
    cache = tmp_path / "cache"
    with monkeypatch.context() as patch:
        patch.setattr("srcli.training.cache.shutil.disk_usage", lambda _path: type("usage", (), {"free": 100_000}))
        assert f"free for the cache in {cache}" in too_large(config_of(folder, cache=str(cache)))
    PhotoDataset.read(folder, smallest=40, cache=str(cache))
    with monkeypatch.context() as patch:
        patch.setattr("srcli.training.cache.shutil.disk_usage", lambda _path: type("usage", (), {"free": 100_000}))
        assert too_large(config_of(folder, cache=str(cache))) == ""  # it is there already


def test_photographs_held_out_of_chunks_are_never_trained_on(folder: Path) -> None:
    photos, held_out = read_photos(config_of(folder, patch=16), chunks=Reading())
    assert isinstance(photos, StreamedPhotos)
    assert held_out is not None
    trained = {short(name) for name in photos.at(0).names}
    photos.close()
    assert len(held_out) == 2
    assert not trained & set(held_out.names)
    assert len(trained) == 18


@pytest.mark.parametrize("changes", [{"teacher": "base-x2"}, {"lr_data": "pairs"}])
def test_what_needs_all_photographs_is_refused(folder: Path, changes: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="needs all photographs before the first step, but they are read in chunks"):
        read_photos(config_of(folder, patch=16, **changes), chunks=Reading())


def test_another_number_of_processes_begins_the_next_epoch() -> None:
    assert Reading(1, 2, positions=[[3, 1, 4], [3, 2, 0]]).start == Position(3, 2, 0)
    assert Reading(0, 1, positions=[[3, 1, 4], [3, 2, 0]]).start == Position(4)
    assert Reading(0, 1).start == Position()


# runs


def test_a_run_on_chunks_resumes_to_the_bit(
    srcli: Command, shards: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "CHUNK_PIXELS", 6 * 40 * 48)  # 11520 pixels: four steps
    size = ["--channels", 8, "--blocks", 1, "--scale", 2, "--patch", 32, "--batch", 2, "--device", "cpu", "--val-split", 0]
    words = ["train", shards, *size, "--steps", 9]
    first = srcli(*words, "--max-time", "0.001s", "-o", tmp_path / "run", "--save-every", 7)
    assert first.exit_code == 0, first.stderr
    stopped = torch.load(tmp_path / "run" / "checkpoint.pt")
    assert len(stopped["positions"]) == 1
    again = srcli(*words, "-o", tmp_path / "run", "--save-every", 7)
    assert again.exit_code == 0, again.stderr
    assert srcli(*words, "-o", tmp_path / "whole", "--save-every", 7).exit_code == 0
    one, other = (torch.load(tmp_path / run / "checkpoint.pt") for run in ("run", "whole"))
    assert all(torch.equal(one["generator"][name], other["generator"][name]) for name in one["generator"])
    assert one["positions"] == other["positions"] != stopped["positions"]


def test_shards_are_checked(srcli: Command, shards: str) -> None:
    result = srcli("train", shards, "--check-data", "--scale", 2, "--patch", 32)
    assert result.exit_code == 0
    assert "set --val to a folder of photographs" in result.stderr
    assert result.stdout.startswith("5 shards to train on, of which the first chunk was read.")


def test_nothing_is_read_after_the_end(folder: Path, shards: str) -> None:
    photos = StreamedPhotos(source_of("folder", folder, shards), smallest=40, steps_per_chunk=1)
    photos.at(0)
    photos.close()
    assert not any(thread.is_alive() for thread in photos._pool._threads)
