"""`srcli train`: a folder of photographs in, a model file out."""

from __future__ import annotations

import shlex
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from srcli.runs import Run

from srcli.errors import SettingsError
from srcli.settings import TrainSettings, from_mapping, parse_loss, read_yaml, to_mapping

DEFAULT = TrainSettings()


def _option(name: str, help: str, *, default: Any, metavar: str | None = None) -> Any:
    """An option that is left to the YAML file, and then to the default of `TrainSettings`, where it is not given."""
    return typer.Option(name, help=f"{help} [default: {default}]", metavar=metavar, show_default=False)


def train(
    photos: Annotated[
        Path | None, typer.Argument(help="Folder of photographs, with its subfolders.", show_default=False)
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="RUN", help="Folder for the model, the checkpoint and the history.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option("-c", "--config", metavar="FILE", help="Settings from a YAML file; options go before it.")
    ] = None,
    resume: Annotated[
        Path | None, typer.Option("--resume", metavar="RUN", help="Continue an earlier run where it stopped.")
    ] = None,
    init: Annotated[
        str | None, typer.Option("--init", metavar="MODEL", help="Start from the weights of a shipped model or a model file.")
    ] = None,
    generator: Annotated[str | None, _option("--generator", "compact or johnson.", default="compact")] = None,
    scale: Annotated[int | None, _option("--scale", "How many times larger.", default=DEFAULT.generator.scale)] = None,
    channels: Annotated[int | None, _option("--channels", "Width of the generator.", default="by generator")] = None,
    blocks: Annotated[int | None, _option("--blocks", "Depth of the generator.", default="by generator")] = None,
    loss: Annotated[
        str | None,
        _option(
            "--loss",
            "Weighted sum of pixel, l1, charbonnier, feature, tv and grid, as in pixel=1,feature=0.1.",
            default="pixel=1",
            metavar="TERMS",
        ),
    ] = None,
    layers: Annotated[
        str | None,
        _option(
            "--layers",
            "VGG16 layers of the feature loss, as in relu2_2=0.5,relu4_3; or johnson, gatys, first23.",
            default="first23",
            metavar="LAYERS",
        ),
    ] = None,
    distance: Annotated[
        str | None, _option("--distance", "Of features: squared or absolute.", default="squared", metavar="WHICH")
    ] = None,
    vgg: Annotated[
        str | None,
        _option("--vgg", "VGG16 weights: oxford, imagenet1k-v1, or a .pth or .safetensors.", default="oxford", metavar="FILE"),
    ] = None,
    steps: Annotated[int | None, _option("--steps", "Updates of the weights.", default=DEFAULT.steps)] = None,
    batch: Annotated[int | None, _option("--batch", "Crops in a step.", default=DEFAULT.batch)] = None,
    patch: Annotated[
        int | None, _option("--patch", "Side of a crop of the true image, in pixels.", default=DEFAULT.patch)
    ] = None,
    lr: Annotated[float | None, _option("--lr", "Peak learning rate.", default=DEFAULT.lr)] = None,
    precision: Annotated[
        str | None, _option("--precision", "auto, fp32 or bf16; auto is bf16 where the processor gains by it.", default="auto")
    ] = None,
    save_every: Annotated[
        int | None, _option("--save-every", "Steps between two writings of the model file.", default=DEFAULT.save_every)
    ] = None,
    seed: Annotated[int | None, _option("--seed", "Seed of first weights and crops.", default=DEFAULT.seed)] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
) -> None:
    """Train a generator on a folder of photographs.

    RUN/model.safetensors is written at intervals and works with srcli upscale -m at once.
    """
    given: dict[str, Any] = {
        "steps": steps,
        "batch": batch,
        "patch": patch,
        "lr": lr,
        "precision": precision,
        "save_every": save_every,
        "seed": seed,
    }
    shape: dict[str, Any] = {"architecture": generator, "scale": scale, "channels": channels, "blocks": blocks}
    if resume is not None:
        others = {
            "loss": loss,
            "layers": layers,
            "distance": distance,
            "vgg": vgg,
            "output": output,
            "config": config,
            "init": init,
        }
        _resume(resume, photos, given | shape | others, device)
        return
    if photos is None:
        raise SettingsError("Give a folder of photographs to train on, as in srcli train PHOTOS -o RUN.")
    if output is None:
        raise SettingsError("Give a folder for the run with -o RUN.")
    settings = read_yaml(config) if config else DEFAULT
    settings = _override(settings, given, shape, {"layers": layers, "distance": distance}, loss)

    from srcli.runs import Run

    run = Run(output)
    run.create(settings)
    command = shlex.join(["srcli", *sys.argv[1:]])
    about = {"command": command, "photos": str(photos.resolve()), "init": init, "vgg": vgg or "oxford"}
    _train(run, settings, about, device, state=None)


def _override(
    settings: TrainSettings, given: dict[str, Any], shape: dict[str, Any], features: dict[str, Any], loss: str | None
) -> TrainSettings:
    """The settings with what the command line says in the place of what the file or the default says."""
    mapping = to_mapping(settings)
    if shape["architecture"] not in (None, mapping["generator"]["architecture"]):
        mapping["generator"] = {"scale": mapping["generator"]["scale"]}  # sizes of another generator mean nothing here
    mapping["generator"] |= {name: value for name, value in shape.items() if value is not None}
    mapping |= {name: value for name, value in given.items() if value is not None}
    if loss is not None:
        kept = {name: mapping["loss"][name] for name in features}
        mapping["loss"] = to_mapping(parse_loss(loss)) | kept
    mapping["loss"] |= {name: value for name, value in features.items() if value is not None}
    return from_mapping(TrainSettings, mapping, "The command line")


def _resume(folder: Path, photos: Path | None, given: dict[str, Any], device: str) -> None:
    refused = [name for name, value in given.items() if value is not None]
    if refused:
        raise SettingsError(f"--resume continues a run with its own settings; leave out --{refused[0].replace('_', '-')}.")
    from srcli.runs import Run

    run = Run(folder)
    state = run.load()
    settings = from_mapping(TrainSettings, state["settings"], str(run.checkpoint))
    about = state["about"]
    if photos is not None:
        about |= {"photos": str(photos.resolve())}
    _train(run, settings, about, device, state)


def _train(run: Run, settings: TrainSettings, about: dict[str, Any], device: str, state: dict[str, Any] | None) -> None:
    """Train to the end, or until interrupted. `about` is what the model file will say; `state` is a checkpoint's."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    from srcli.core.devices import pick_device
    from srcli.core.losses import WeightedLoss
    from srcli.models import load_feature_loss, load_generator
    from srcli.photos import Photos
    from srcli.training import Step, Training, crop_size
    from srcli.training import train as run_training

    where = pick_device(device)
    feature = load_feature_loss(settings.loss.layers, about["vgg"], settings.loss.distance) if settings.loss.feature else None
    training = Training(settings, WeightedLoss(settings.loss, feature, settings.generator.scale), where)
    if state is not None:
        training.restore(state)
    elif about["init"]:
        training.start_from(load_generator(about["init"]))
    console = Console(stderr=True)
    folder = Path(about["photos"])
    console.print(f"Reading the photographs in {folder.name} ...", highlight=False)
    pictures = Photos.read(folder, smallest=crop_size(settings))
    console.print(
        f"{len(pictures.pictures)} photographs, {pictures.megapixels:.1f} megapixels; "
        f"{settings.generator.architecture} x{settings.generator.scale} on {where}, "
        f"{str(training.autocast).removeprefix('torch.')}.",
        highlight=False,
    )

    recent: list[Step] = []
    stopping = False

    def stop(_signal: int, _frame: FrameType | None) -> None:
        nonlocal stopping
        stopping = True

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    before = [signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)]
    try:
        with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
            bar = progress.add_task("training", total=settings.steps, completed=training.steps, note="")

            def on_step(step: Step) -> None:
                recent.append(step)
                window = recent[-100:]
                pace = progress.tasks[0].speed or 0
                mean = sum(each.total for each in window) / len(window)
                progress.update(bar, completed=step.number, note=f"loss {mean:.5g} · {pace:.1f} steps/s")
                if len(recent) == 100 or step.number == settings.steps:
                    run.log(recent)
                    recent.clear()

            def on_save() -> None:
                run.save(training, about)

            done = run_training(training, pictures, on_step=on_step, on_save=on_save, stop=lambda: stopping)
    finally:
        for number, handler in zip((signal.SIGINT, signal.SIGTERM), before, strict=True):
            signal.signal(number, handler)
    if not done:
        console.print(
            f"Stopped after step {training.steps} and saved. "
            f"Continue with: srcli train --resume {shlex.quote(str(run.folder))}",
            highlight=False,
            soft_wrap=True,
        )
        raise typer.Exit(130)
    typer.echo(run.model)
