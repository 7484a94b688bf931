"""`srcli train`: its files, its errors, and recovery from interruptions."""

import csv
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from srcli.config import TrainConfig, seconds
from srcli.io.image import Image
from srcli.io.read import read_image
from srcli.io.write import write_image
from srcli.models.checkpoint import load_generator
from srcli.models.registry import describe_model
from srcli.training.run_dir import RunDirectory
from srcli.training.settings import read_yaml
from srcli.training.trainer import Trainer
from tests import processes
from tests.conftest import CommandResult, make_model

Command = Callable[..., CommandResult]
Pixels = Callable[..., np.ndarray]

TINY = ["--generator", "compact", "--channels", 8, "--blocks", 1, "--scale", 2, "--patch", 32, "--batch", 2, "--device", "cpu"]
QUICK = [*TINY, "--val-split", 0]


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "history.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def words(result: CommandResult) -> str:
    return " ".join(result.stderr.split())


def test_train_then_upscale(srcli: Command, photos: Path, photo: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    result = srcli("train", photos, *TINY, "--steps", 4, "-o", run)
    assert result.exit_code == 0
    assert result.stdout == f"{run / 'model.safetensors'}\n"
    assert "2 photographs to train on, 0.0 megapixels, and 1 to validate on; compact x2 on cpu" in result.stderr
    best = run / "best.safetensors"
    assert re.search(r"4 steps in \d+ s, \d+ images/s without validation and saving\.", words(result))
    assert f"Use it with: srcli upscale IMAGE -m {best}" in result.stderr
    psnr = max(float(row["val_psnr"]) - float(row["bicubic_psnr"]) for row in rows(run))
    steps = describe_model(best).about["steps"]
    assert f"The best model is {best}, of step {steps}: " in words(result)
    assert f"({psnr:+.2f} to bicubic)." in words(result)
    assert srcli("upscale", photo, "-m", run / "model.safetensors").exit_code == 0
    assert read_image(photo.with_name("photo_x2.png")).width == 80


def test_check_data_counts_what_is_left_out(srcli: Command, photos: Path, pixels: Pixels) -> None:
    source = next(photos.glob("*.png"))
    write_image(Image(pixels(160, 192)), source.with_name(f"{source.stem}_x2.png"))
    for name in (".one.png", ".two.png"):
        (photos / name).write_bytes(b"")
    result = srcli("train", photos, "--check-data", *TINY)
    assert "Left out: 2 hidden files, 1 result of srcli upscale." in words(result)
    assert result.stdout.startswith("2 photographs to train on")


def test_files_of_a_run(srcli: Command, photos: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    loss = ["--loss", "pixel=1,feature=0.1", "--layers", "relu1_2,relu2_2=0.5"]
    assert srcli("train", photos, *TINY, *loss, "--steps", 4, "--val-every", 2, "-o", run).exit_code == 0
    names = {
        "checkpoint.pt",
        "model.safetensors",
        "best.safetensors",
        "settings.yaml",
        "history.csv",
        "curves.png",
        "strip.png",
        "samples",
        "report.html",
    }
    assert {path.name for path in run.iterdir()} == names
    history = rows(run)
    assert [row["step"] for row in history] == ["0", "2", "4"]
    assert history[0]["loss"] == ""
    for row in history:
        assert float(row["val_psnr"]) > 10
        assert row["bicubic_psnr"] == history[0]["bicubic_psnr"]
    for row in history[1:]:
        assert float(row["feature_weighted"]) == pytest.approx(0.1 * float(row["feature"]), rel=1e-4)
        assert float(row["loss"]) == pytest.approx(float(row["pixel_weighted"]) + float(row["feature_weighted"]), rel=1e-4)
        assert float(row["images_per_second"]) > 0
    assert read_image(run / "strip.png").width == 4 * 88 + 3 * 6  # 96 pixels less a rim of 4 on each side
    assert read_image(run / "curves.png").width > 1000
    about = describe_model(run / "model.safetensors").about
    assert about["steps"] == 4
    assert about["command"].startswith("srcli train ")
    assert about["settings"]["loss"]["layers"] == {"relu1_2": 1.0, "relu2_2": 0.5}
    assert about["settings"]["photos"] is None
    assert {"torch", "python"} <= about.keys()
    assert "val_psnr" in describe_model(run / "best.safetensors").about
    assert "# srcli train " in (run / "settings.yaml").read_text()


def test_the_complete_yaml_contains_every_option_and_gives_the_same_run(srcli: Command, photos: Path, tmp_path: Path) -> None:
    options = [photos, *TINY, "--loss", "l1=1,grid=2", "--patch", 64, "--steps", 3, "-o", tmp_path / "one"]
    printed = srcli("train", *options, "--schedule", "multistep", "--milestones", "1,2", "--print-settings")
    assert printed.exit_code == 0
    assert set(yaml.safe_load(printed.stdout)) == set(TrainConfig.__dataclass_fields__)
    config_file = tmp_path / "all.yaml"
    config_file.write_text(printed.stdout)
    assert not (tmp_path / "one").exists()
    assert srcli("train", "-c", config_file).exit_code == 0
    again = read_yaml(tmp_path / "one" / "settings.yaml")
    assert again == read_yaml(config_file)
    assert (again.milestones, again.loss.l1, again.loss.grid, again.generator.channels) == ((1, 2), 1, 2, 8)


def test_options_override_the_file(srcli: Command, photos: Path, tmp_path: Path) -> None:
    config_file = tmp_path / "settings.yaml"
    config_file.write_text("generator: {scale: 3, channels: 8, blocks: 1}\nsteps: 100\npatch: 48\nbatch: 1\n")
    assert srcli("train", photos, "-c", config_file, "--steps", 1, "-o", tmp_path / "run", "--device", "cpu").exit_code == 0
    config = read_yaml(tmp_path / "run" / "settings.yaml")
    assert (config.steps, config.patch, config.generator.scale) == (1, 48, 3)


def test_check_data_reports_the_data_and_does_not_train(srcli: Command, photos: Path) -> None:
    result = srcli("train", photos, *TINY, "--check-data")
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "2 photographs to train on, 0.0 megapixels, 12 crops of 32x32 without overlap.",
        "1 photograph to validate on.",
    ]
    (photos / "broken.png").write_text("no image")
    assert srcli("train", photos, *TINY, "--check-data", "--strict").exit_code == 1


def test_a_used_run_folder_is_rejected_resumed_or_overwritten(srcli: Command, photos: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert srcli("train", photos, *TINY, "--steps", 2, "-o", run).exit_code == 0
    for steps in (2, 3):  # finished, and another run
        again = srcli("train", photos, *TINY, "--steps", steps, "-o", run)
        assert again.exit_code == 1
        assert "Use --resume" in again.stderr
    assert srcli("train", "--resume", run, "--device", "cpu").exit_code == 0
    finished = srcli("train", "--resume", run, "--device", "cpu")
    assert (finished.exit_code, finished.stdout) == (0, f"{run / 'model.safetensors'}\n")
    assert f"{run} has finished after 2 steps. Set --steps to a larger number to train on." in words(finished)
    assert srcli("train", "--resume", tmp_path).exit_code == 1
    (run / "mine.txt").write_text("stays")
    assert srcli("train", photos, *TINY, "--steps", 1, "-o", run, "--overwrite").exit_code == 0
    assert [row["step"] for row in rows(run)] == ["0", "1"]
    assert (run / "mine.txt").exists()


@pytest.mark.parametrize("name", ["settings.yaml", "best.safetensors", "strip.png", "report.html", "samples/mine.jpg"])
def test_files_of_the_user_in_the_run_folder_are_not_replaced(srcli: Command, photos: Path, tmp_path: Path, name: str) -> None:
    run = tmp_path / "run"
    (run / name).parent.mkdir(parents=True)
    (run / name).write_text("mine")
    result = srcli("train", photos, *TINY, "--steps", 1, "-o", run)
    assert result.exit_code == 1
    assert f"{run} contains {name.split('/')[0]}, which training would replace." in words(result)
    assert [path for path in run.rglob("*") if path.is_file()] == [run / name]
    assert (run / name).read_text() == "mine"


def test_hidden_files_of_the_user_stay_when_a_run_is_resumed(srcli: Command, photos: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert srcli("train", photos, *QUICK, "--steps", 1, "-o", run).exit_code == 0
    mine, stale = run / ".notes.part1.txt", run / ".model.srcli-0123abcd.part.safetensors"
    mine.write_text("mine")
    stale.write_text("half")
    assert srcli("train", "--resume", run, "--steps", 2, "--device", "cpu").exit_code == 0
    assert mine.read_text() == "mine"
    assert not stale.exists()


def test_the_same_command_starts_and_continues_a_run(
    srcli: Command, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    options = [photos, *QUICK, "--steps", 6, "--save-every", 2, "-o", run]
    with monkeypatch.context() as patch:
        patch.setattr(RunDirectory, "save_checkpoint", lambda *_: os.kill(os.getpid(), signal.SIGTERM) or sys.exit(9))
        assert srcli("train", *options).exit_code == 9  # before the first checkpoint
    assert RunDirectory(run).without_checkpoint
    for arguments in (["--resume", run, "--max-time", "0s"], [*options, "--max-time", "0s"]):
        assert srcli("train", *arguments).exit_code == 0  # stops after a step
    assert torch.load(run / "checkpoint.pt")["steps"] == 2
    result = srcli("train", *options)
    assert result.exit_code == 0
    assert f"{run} contains this run up to step 2; continuing it." in words(result)
    assert [row["step"] for row in rows(run)] == ["2", "4", "6"]


def test_a_damaged_history_is_reported_on_resume(srcli: Command, photos: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert srcli("train", photos, *QUICK, "--steps", 1, "-o", run).exit_code == 0
    for content in (b"", b"step,loss\n1,\xff\n", b"a,b\n1,2\n", b"step,loss\nx,2\n"):
        (run / "history.csv").write_bytes(content)
        result = srcli("train", "--resume", run, "--steps", 2, "--device", "cpu")
        assert result.exit_code == 1, content
        assert f"{run / 'history.csv'} is damaged. Restore it, or move it away" in words(result)
        assert (run / "history.csv").read_bytes() == content


def test_a_full_disk_while_the_history_is_written(
    srcli: Command, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("srcli.training.run_dir.csv.DictWriter.writerow", full)
        result = srcli("train", photos, *QUICK, "--steps", 1, "--cache", "none", "-o", run)
    assert result.exit_code == 1
    assert f"Cannot write {run / 'history.csv'}: No space left on device." in words(result)


def test_a_finished_run_can_go_on_with_a_new_schedule(
    srcli: Command, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("srcli.training.history.LOG_INTERVAL", 1)
    run = tmp_path / "run"
    options = ["--steps", 10, "--warmup", 2, "--lr", 0.01]
    assert srcli("train", photos, *QUICK, *options, "-o", run, "--max-time", "0s").exit_code == 0
    unfinished = srcli("train", "--resume", run, "--steps", 20)
    assert unfinished.exit_code == 2
    assert "has not finished yet, so it cannot be extended" in words(unfinished)
    assert srcli("train", "--resume", run, "--max-time", "1h").exit_code == 0
    assert srcli("train", "--resume", run, "--steps", 20, "--device", "cpu").exit_code == 0
    rates = {int(row["step"]): float(row["lr"]) for row in rows(run) if row["lr"]}
    assert list(rates)[-1] == 20
    assert rates[10] < 0.0006  # annealed
    assert rates[11] == pytest.approx(0.005)  # warms up again
    assert rates[12] == pytest.approx(0.01)
    assert rates[20] < 0.0006


def test_training_for_a_time_ends_annealed(
    srcli: Command, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if each step took a tenth of a second."""
    tick, durations = Trainer.tick, []
    monkeypatch.setattr(Trainer, "tick", lambda trainer, duration: (durations.append(duration), tick(trainer, 0.1)))
    monkeypatch.setattr("srcli.training.history.LOG_INTERVAL", 1)
    run = tmp_path / "run"
    began = time.monotonic()
    result = srcli("train", photos, *QUICK, "--train-for", "1.95s", "--warmup", 1, "--lr", 0.01, "-o", run)
    assert result.exit_code == 0
    assert 0 < min(durations) < sum(durations) < time.monotonic() - began
    rates = [float(row["lr"]) for row in rows(run)]
    assert len(rates) == 20
    assert rates[0] == pytest.approx(0.01)
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < 0.0002
    longer = srcli("train", "--resume", run, "--train-for", "2.95s", "--device", "cpu")
    assert longer.exit_code == 0
    assert torch.load(run / "checkpoint.pt")["steps"] == 50


@pytest.mark.parametrize(("text", "number"), [("45s", 45), ("90m", 5400), ("1h30m", 5400), ("1.5h", 5400), ("2d1s", 172_801)])
def test_durations(text: str, number: float) -> None:
    assert seconds(text) == number


def test_earlier_checkpoints_are_kept_and_can_be_resumed(srcli: Command, photos: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert srcli("train", photos, *QUICK, "--steps", 5, "--save-every", 1, "--keep", 2, "-o", run).exit_code == 0
    assert sorted(path.name for path in run.glob("*.pt")) == [
        "checkpoint-00000003.pt",
        "checkpoint-00000004.pt",
        "checkpoint.pt",
    ]
    end = torch.load(run / "checkpoint.pt")
    assert srcli("train", "--resume", run / "checkpoint-00000003.pt").exit_code == 0
    same_state(torch.load(run / "checkpoint.pt"), end)


def test_changed_photographs_are_reported_on_resume(srcli: Command, photos: Path, tmp_path: Path, pixels: Pixels) -> None:
    run = tmp_path / "run"
    assert srcli("train", photos, *QUICK, "--steps", 2, "-o", run).exit_code == 0
    write_image(Image(pixels(80, 96)), photos / "four.png")
    assert "have changed since the run began" in srcli("train", "--resume", run, "--steps", 3).stderr


def test_a_model_of_another_scale_initializes_all_but_the_last_layer(srcli: Command, photos: Path, tmp_path: Path) -> None:
    source = make_model(tmp_path / "x3.safetensors", scale=3)
    options = [photos, *QUICK, "--blocks", 2, "--steps", 1, "--lr", 1e-9, "-o", tmp_path / "run", "--init", source]
    result = srcli("train", *options)
    assert result.exit_code == 0
    assert "is an x3 model; its weights are adapted to x2." in words(result)
    trained = load_generator(tmp_path / "run" / "model.safetensors").state_dict()
    torch.testing.assert_close(trained["head.weight"], load_generator(source).state_dict()["head.weight"], atol=1e-6, rtol=0)


def test_training_on_pairs(srcli: Command, photos: Path, tmp_path: Path) -> None:
    for path in (photos / "one.png", photos / "two.png", photos / "below" / "three.png"):
        hr = read_image(path)
        write_image(hr.with_pixels(hr.pixels[::2, ::2]), tmp_path / "small" / path.relative_to(photos))
    assert srcli("train", photos, *TINY, "--lr-data", tmp_path / "small", "--steps", 2, "-o", tmp_path / "run").exit_code == 0
    assert len(rows(tmp_path / "run")) == 2


def test_tensorboard_logs_what_the_history_contains(srcli: Command, photos: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    run = tmp_path / "run"
    assert srcli("train", photos, *QUICK, "--steps", 2, "--log", "tensorboard", "-o", run).exit_code == 0
    assert any((run / "tensorboard").iterdir())


def test_reaching_the_time_limit_is_not_an_error(srcli: Command, photos: Path, tmp_path: Path) -> None:
    result = srcli("train", photos, *QUICK, "--steps", 100_000, "--max-time", "1s", "-o", tmp_path / "run")
    assert result.exit_code == 0
    assert f"because the time limit of 1s was reached. Continue with: srcli train --resume {tmp_path / 'run'}" in words(result)


# interruptions


needs_fork = pytest.mark.skipif(sys.platform == "win32", reason="forks processes and sends signals")


def arguments(photos: Path, run: Path, *options: object) -> list[str]:
    return ["train", *map(str, [photos, *QUICK, *options, "-o", run])]


def same_state(one: dict[str, object], other: dict[str, object]) -> None:
    """Equal to the bit: weights, averages, optimizer and counters."""
    assert one.keys() == other.keys()
    for name in ("generator", "average"):
        mine, theirs = one[name], other[name]
        assert isinstance(mine, dict)
        assert isinstance(theirs, dict)
        assert all(torch.equal(mine[key], theirs[key]) for key in mine)
    assert str(one["optimizer"]) == str(other["optimizer"])
    assert one["steps"] == other["steps"]


@needs_fork
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_run_saves_and_prints_how_to_continue(photos: Path, tmp_path: Path, number: int) -> None:
    run = tmp_path / "run"
    process = processes.Command(arguments(photos, run, "--steps", 100_000), tmp_path)
    process.wait_for_file(run / "history.csv")
    process.send(number)
    process.end()
    assert process.exit_code == 130
    assert f"srcli train --resume {run}" in " ".join(process.stderr.split())
    assert torch.load(run / "checkpoint.pt")["steps"] >= 100
    assert (run / "model.safetensors").exists()


@needs_fork
def test_a_running_run_is_not_disturbed(srcli: Command, photos: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = processes.Command(arguments(photos, run, "--steps", 100_000, "--save-every", 1), tmp_path)
    process.wait_for_file(run / "checkpoint.pt")
    for words in (("--resume", run), (photos, *QUICK, "--steps", 1, "-o", run, "--overwrite")):
        result = srcli("train", *words)
        assert result.exit_code == 1
        assert f"Another process is training in {run}." in " ".join(result.stderr.split())
    assert process.is_running
    process.send(signal.SIGKILL)
    process.end()
    assert "Cannot" not in process.stderr
    assert (
        srcli("train", photos, *QUICK, "--steps", 1, "-o", run, "--overwrite").exit_code == 0
    )  # the lock of a killed process is free


@needs_fork
def test_a_run_killed_six_times_ends_with_the_same_bits(photos: Path, tmp_path: Path) -> None:
    """SIGKILL at random moments, each followed by the same command: the final state equals that of an uninterrupted run.

    Two are before the first step or after it, the others while a new checkpoint, the model or the next steps are written.
    """
    options = ["--steps", 120, "--save-every", 8, "--keep", 1, "--warmup", 20, "--degradation", "photo", "--patch", 16]
    calm, killed = tmp_path / "calm", tmp_path / "killed"
    assert processes.run(arguments(photos, calm, *options), tmp_path).exit_code == 0
    moments = random.Random(0)
    words = arguments(photos, killed, *options)
    checkpoint = killed / "checkpoint.pt"
    for kills in range(6):
        before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
        process = processes.Command(words, tmp_path)
        process.wait_for("photographs to train on")
        if kills >= 2:
            process.wait_for_file(checkpoint, newer_than=before)
        time.sleep(moments.uniform(0, 0.1))
        assert process.is_running, "the run ended before it could be killed"
        process.send(signal.SIGKILL)
        process.end()
        assert process.exit_code == -signal.SIGKILL
    assert 0 < torch.load(checkpoint)["steps"] < 120
    last = processes.run(words, tmp_path)
    assert last.exit_code == 0, last.stderr
    same_state(torch.load(checkpoint), torch.load(calm / "checkpoint.pt"))
    assert (killed / "model.safetensors").read_bytes()[-4000:] == (calm / "model.safetensors").read_bytes()[-4000:]
    assert [row["step"] for row in rows(killed)] == [row["step"] for row in rows(calm)]
    assert not list(killed.glob(".*"))


def test_a_full_disk_leaves_the_previous_checkpoint_intact(
    srcli: Command, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    save = torch.save
    calls: list[object] = []

    def full(content: object, path: Path) -> None:
        calls.append(content)
        if len(calls) == 3:
            Path(path).write_bytes(b"the first bytes")
            raise OSError(28, "No space left on device")
        save(content, path)

    monkeypatch.setattr(torch, "save", full)
    result = srcli("train", photos, *QUICK, "--steps", 5, "--save-every", 1, "-o", run)
    assert result.exit_code == 1
    assert f"Cannot write {run / 'checkpoint.pt'}: No space left on device." in words(result)
    assert torch.load(run / "checkpoint.pt")["steps"] == 2
    assert not list(run.glob(".*"))
    monkeypatch.undo()
    assert srcli("train", "--resume", run, "--cache", "none").exit_code == 0


def test_too_little_disk_space_is_detected_first(
    srcli: Command, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from collections import namedtuple

    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda _path: usage(10**9, 10**9, 10**6))
    result = srcli("train", photos, *TINY, "--steps", 5, "-o", tmp_path / "run")
    assert result.exit_code == 1
    assert "has 1 MB of free space, but the run needs about 20 MB" in words(result)


def test_a_persistently_non_finite_loss_saves_the_batch_and_gives_advice(srcli: Command, photos: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    wild = "--optimizer", "adam", "--lr", 1e38, "--clip", 1e30, "--warmup", 0
    result = srcli("train", photos, *QUICK, "--steps", 400, *wild, "-o", run)
    assert result.exit_code == 1
    assert "not finite in 10 consecutive steps" in words(result)
    assert "Start again with --lr 1e+37" in words(result)
    assert not (run / "checkpoint.pt").exists()
    with np.load(run / "not-finite.npz") as batch:
        assert batch["hr"].shape == (2, 40, 40, 3)


def torchrun(*words: str | Path) -> subprocess.Popen[str]:
    """Start two Python processes with `words`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-addr", "127.0.0.1", "--master-port", port]
    command = [sys.executable, *map(str, options), *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


LEAVING = """
import sys
from pathlib import Path
from srcli.cli import main
try:
    main()
finally:
    names = [path.read_text() for path in Path("/proc/self/task").glob("*/comm")]
    sys.stderr.write(f"threads of gloo: {sum('gloo' in name for name in names)}\\n")  # in one piece, as two processes write
"""


def test_two_processes_take_the_steps_of_one_with_twice_the_batch(srcli: Command, photos: Path, tmp_path: Path) -> None:
    """And leave no thread of gloo, which may abort a process as it ends."""
    options = ["--steps", 6, "--precision", "fp32", "--degradation", "photo", "--patch", 16, "--warmup", 0]
    one, two = tmp_path / "one", tmp_path / "two"
    assert srcli(*arguments(photos, one, *options, "--batch", 4)).exit_code == 0
    script = tmp_path / "leaving.py"
    script.write_text(LEAVING)
    process = torchrun(script, *arguments(photos, two, *options, "--batch", 2))
    stdout, stderr = process.communicate()
    assert process.returncode == 0, stderr
    assert stdout == f"{two / 'model.safetensors'}\n"
    assert stderr.count("threads of gloo: 0\n") == 2
    mine, theirs = (torch.load(run / "checkpoint.pt")["generator"] for run in (one, two))
    for name in mine:
        torch.testing.assert_close(mine[name], theirs[name], atol=1e-5, rtol=0)
    assert float(rows(one)[-1]["loss"]) == pytest.approx(float(rows(two)[-1]["loss"]), rel=1e-4)


@pytest.mark.skipif(sys.platform != "linux", reason="finds processes by /proc")
def test_a_killed_process_ends_the_others_with_one_sentence_and_the_restart_continues(photos: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = torchrun("--max-restarts", "1", "-m", "srcli", *arguments(photos, run, "--steps", 60, "--save-every", 20))
    while not (run / "checkpoint.pt").exists():
        assert process.poll() is None
        time.sleep(0.05)
    environments = {path.parent: path.read_bytes() for path in Path("/proc").glob("[0-9]*/environ") if readable(path)}
    second = [
        int(process_folder.name)
        for process_folder, variables in environments.items()
        if b"\0RANK=1\0" in variables and os.fsencode(run) in (process_folder / "cmdline").read_bytes()
    ]
    assert len(second) == 1
    os.kill(second[0], signal.SIGKILL)
    stdout, stderr = process.communicate(timeout=120)
    assert "srcli: Another process of this run has ended, so this one stopped after step" in stderr
    assert f"Continue from the last checkpoint with --resume {run}." in stderr
    assert "srcli/training" not in stderr  # no traceback but that of torchrun
    assert stderr.count("contains this run up to step") == 1, stderr
    assert process.returncode == 0
    assert stdout == f"{run / 'model.safetensors'}\n"
    assert torch.load(run / "checkpoint.pt")["steps"] == 60
    steps = [int(row["step"]) for row in rows(run)]
    assert steps == sorted(set(steps))
    assert steps[-1] == 60


def readable(path: Path) -> bool:
    try:
        return bool(path.read_bytes())
    except OSError:  # it has ended, or belongs to somebody else
        return False


# what is refused


@pytest.mark.parametrize(
    ("options", "code", "sentence"),
    [
        (["--loss", "pixle=1"], 2, "Did you mean pixel"),
        (["--loss", "pixel=-1"], 2, "at least 0"),
        (["--layers", "relu4_9"], 2, "no layer 'relu4_9'"),
        (["--patch", "33"], 2, "use 32 or 34"),
        (["--patch", "200"], 1, "training needs at least 208x208"),
        (["--generator", "jonson"], 2, "Did you mean johnson"),
        (["--precision", "fp8"], 2, "should be one of auto, fp32, bf16, fp16"),
        (["--degradation", "foto"], 2, "should be one of bicubic, johnson, photo"),
        (["--milestones", "1,x", "--schedule", "multistep"], 2, "write integers, as in 5000,8000"),
        (["--init", "missing.safetensors"], 2, "no model file"),
        (["--init", "base-x4"], 1, "residual with 64 channels and 8 blocks cannot initialize compact with 8 channels"),
        (["--device", "cuda:x"], 2, "no device 'cuda:x'"),
        (["-c", "missing.yaml"], 1, "Cannot read missing.yaml"),
        (["--vgg", "missing.pth", "--loss", "feature=1"], 1, "Cannot read missing.pth"),
        (["--val", "missing"], 1, "missing is not a folder"),
        (["--lr-data", "missing"], 1, "missing is not a folder"),
        (["--unlabeled", "half"], 2, "--unlabeled needs --teacher, without --lr-data."),
        (["--val", "missing", "--lr-data", "missing"], 2, "set --val-split instead of --val"),
    ],
)
def test_invalid_training_is_reported_in_one_sentence(
    srcli: Command, photos: Path, tmp_path: Path, options: list[str], code: int, sentence: str
) -> None:
    result = srcli("train", photos, *TINY, "-o", tmp_path / "run", *options)
    assert (result.exit_code, result.stdout) == (code, "")
    assert sentence in words(result)
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "run" / "settings.yaml").exists()


def test_a_misspelled_key_in_the_file_is_rejected(srcli: Command, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("stpes: 5\n")
    result = srcli("train", photos, "-c", tmp_path / "run.yaml", "-o", tmp_path / "run")
    assert result.exit_code == 2
    assert "unknown key 'stpes'. Did you mean steps" in words(result)


def test_every_bad_image_is_reported_before_the_first_step(
    srcli: Command, photos: Path, tmp_path: Path, pixels: Pixels
) -> None:
    (photos / "broken.png").write_text("no image")
    write_image(Image(pixels(20, 200)), photos / "low.png")
    result = srcli("train", photos, *TINY, "-o", tmp_path / "run", "--strict")
    assert result.exit_code == 1
    assert "broken.png" in result.stderr
    assert "low.png is 200x20 pixels; training needs at least 40x40" in result.stderr
    assert not (tmp_path / "run" / "checkpoint.pt").exists()
    result = srcli("train", photos, *TINY, "-o", tmp_path / "run", "--steps", 1)
    assert result.exit_code == 0
    assert "Left out 2 images; --strict makes this an error:" in words(result)
    assert "low.png is 200x20 pixels" in words(result)
    checked = srcli("train", photos, *TINY, "--check-data")
    assert checked.exit_code == 0
    assert checked.stderr.count("Left out: ") == 2


def test_folders_without_images_and_with_a_single_one_are_rejected(srcli: Command, tmp_path: Path, pixels: Pixels) -> None:
    (tmp_path / "empty").mkdir()
    assert "contains no image" in srcli("train", tmp_path / "empty", *TINY, "-o", tmp_path / "run").stderr
    write_image(Image(pixels(64, 64)), tmp_path / "one" / "only.png")
    result = srcli("train", tmp_path / "one", *TINY, "-o", tmp_path / "run")
    assert result.exit_code == 1
    assert "train without validation with --val-split 0" in words(result)
    alone = srcli("train", tmp_path / "one", *TINY, "-o", tmp_path / "run", "--val-split", 0, "--steps", 1)
    assert alone.exit_code == 0


def test_a_model_file_cannot_be_resumed(srcli: Command, model: Path) -> None:
    result = srcli("train", "--resume", model)
    assert result.exit_code == 2
    assert "Give the folder of the run, or use --init" in words(result)


def test_a_run_folder_that_cannot_be_written_is_detected_first(srcli: Command, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = srcli("train", photos, *TINY, "-o", tmp_path / "file" / "run")
    assert result.exit_code == 1
    assert "Cannot write" in result.stderr


def test_a_trained_model_can_run_in_int8(srcli: Command, photos: Path, tmp_path: Path) -> None:
    run, target = tmp_path / "run", tmp_path / "large.png"
    assert srcli("train", photos, *QUICK, "--steps", 2, "-o", run).exit_code == 0
    model = f"{run / 'model.safetensors'}:int8"
    result = srcli("upscale", photos / "one.png", "-m", model, "-o", target, "--json", "--device", "cpu")
    assert json.loads(result.stdout)["device"] == "cpu (OpenVINO, int8)"
    assert read_image(target).width == 192
