"""`srcli train`: a folder of photographs in, a model file out."""

from __future__ import annotations

import shlex
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from srcli.errors import SettingsError, SrcliError
from srcli.settings import TrainSettings, from_mapping, parse_loss, read_yaml, seconds, to_mapping, write_yaml

if TYPE_CHECKING:
    from srcli.photos import Photos
    from srcli.runs import Run

DEFAULT = TrainSettings()
FIELDS = {field.name: field for field in fields(TrainSettings)}

ON_RESUME = ("photos", "lr_data", "val", "cache", "device", "save_every", "keep", "patience", "max_time", "log")
"""What may be said anew when a run is resumed, and changes nothing of what the run learns."""

REMEDIES = ("lr", "clip", "precision")
"""What may be said anew as well, for a run that has diverged."""


def _option(name: str, *flags: str, metavar: str | None = None) -> Any:
    """The option of a field of `TrainSettings`, which is left to the YAML file, and then to its default, if not given."""
    default = FIELDS[name].default
    shown = f" [default: {default}]" if default not in (None, ()) and default is not False else ""
    words = FIELDS[name].metadata["help"] + shown
    return typer.Option(*(flags or (f"--{name.replace('_', '-')}",)), help=words, metavar=metavar, show_default=False)


def _part(flag: str, help: str, default: str, metavar: str | None = None) -> Any:
    """An option that is a part of the generator or of the loss."""
    return typer.Option(flag, help=f"{help} [default: {default}]", metavar=metavar, show_default=False)


def train(
    ctx: typer.Context,
    photos: Annotated[str | None, typer.Argument(help=FIELDS["photos"].metadata["help"], show_default=False)] = None,
    output: Annotated[str | None, _option("output", "-o", "--output", metavar="RUN")] = None,
    config: Annotated[
        Path | None, typer.Option("-c", "--config", metavar="FILE", help="Settings from a YAML file; options go before it.")
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option("--resume", metavar="RUN", help="Continue a run where its last checkpoint, or the one named, is."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run that is in the folder.")] = False,
    print_config: Annotated[bool, typer.Option("--print-config", help="Print the complete YAML file and leave.")] = False,
    check_data: Annotated[
        bool, typer.Option("--check-data", help="Read the photographs, say what there is, and leave.")
    ] = False,
    init: Annotated[str | None, _option("init", metavar="MODEL")] = None,
    architecture: Annotated[str | None, _part("--generator", "compact or johnson.", "compact")] = None,
    scale: Annotated[int | None, _part("--scale", "How many times larger.", str(DEFAULT.generator.scale))] = None,
    channels: Annotated[int | None, _part("--channels", "Width of the generator.", "by generator")] = None,
    blocks: Annotated[int | None, _part("--blocks", "Depth of the generator.", "by generator")] = None,
    loss: Annotated[
        str | None,
        _part("--loss", "Weighted sum, as in pixel=1,feature=0.1; srcli losses lists the terms.", "pixel=1", metavar="TERMS"),
    ] = None,
    layers: Annotated[
        str | None,
        _part(
            "--layers",
            "VGG16 layers of the feature loss, as in relu2_2=0.5,relu4_3; or johnson, gatys, first23.",
            "first23",
            metavar="LAYERS",
        ),
    ] = None,
    distance: Annotated[
        str | None, _part("--distance", "Of features: squared or absolute.", "squared", metavar="WHICH")
    ] = None,
    vgg: Annotated[str | None, _option("vgg", metavar="FILE")] = None,
    degradation: Annotated[str | None, _option("degradation")] = None,
    lr_data: Annotated[str | None, _option("lr_data", metavar="DIR")] = None,
    val: Annotated[str | None, _option("val", metavar="DIR")] = None,
    val_split: Annotated[float | None, _option("val_split")] = None,
    val_every: Annotated[int | None, _option("val_every")] = None,
    cache: Annotated[str | None, _option("cache", metavar="DIR")] = None,
    steps: Annotated[int | None, _option("steps")] = None,
    batch: Annotated[int | None, _option("batch")] = None,
    accumulate: Annotated[int | None, _option("accumulate")] = None,
    patch: Annotated[int | None, _option("patch")] = None,
    optimizer: Annotated[str | None, _option("optimizer")] = None,
    weight_decay: Annotated[float | None, _option("weight_decay")] = None,
    lr: Annotated[float | None, _option("lr")] = None,
    warmup: Annotated[int | None, _option("warmup")] = None,
    schedule: Annotated[str | None, _option("schedule")] = None,
    milestones: Annotated[str | None, _option("milestones", metavar="STEPS")] = None,
    clip: Annotated[float | None, _option("clip")] = None,
    ema: Annotated[float | None, _option("ema")] = None,
    precision: Annotated[str | None, _option("precision")] = None,
    device: Annotated[str | None, _option("device")] = None,
    compile: Annotated[bool | None, _option("compile", "--compile/--no-compile")] = None,
    seed: Annotated[int | None, _option("seed")] = None,
    save_every: Annotated[int | None, _option("save_every")] = None,
    keep: Annotated[int | None, _option("keep")] = None,
    patience: Annotated[int | None, _option("patience")] = None,
    max_time: Annotated[str | None, _option("max_time", metavar="TIME")] = None,
    log: Annotated[str | None, _option("log")] = None,
) -> None:
    """Train a generator on a folder of photographs.

    RUN/model.safetensors is written at intervals and works with srcli upscale -m at once; RUN/best.safetensors is the one
    that did best on photographs held out. Under torchrun, each process takes a batch of its own.
    """
    given = {name: value for name, value in ctx.params.items() if value is not None}
    for name in ("config", "resume", "overwrite", "print_config", "check_data"):
        given.pop(name, None)
    if resume is not None:
        if config is not None or overwrite or print_config or check_data:
            raise SettingsError("--resume goes with neither --config, --overwrite, --print-config nor --check-data.")
        _resume(resume, given)
        return
    settings = settings_from(read_yaml(config) if config else DEFAULT, given)
    if print_config:
        typer.echo(write_yaml(settings), nl=False)
        return
    if settings.photos is None:
        raise SettingsError("Give a folder of photographs to train on, as in srcli train PHOTOS -o RUN.")
    if check_data:
        _check_data(settings)
        return
    if settings.output is None:
        raise SettingsError("Give a folder for the run with -o RUN.")

    from srcli.runs import Run

    command = shlex.join(["srcli", *sys.argv[1:]])
    _train(Run(Path(settings.output)), settings, {"command": command}, state=None, overwrite=overwrite)


def settings_from(settings: TrainSettings, given: dict[str, Any]) -> TrainSettings:
    """The settings with what the command line says, by the names of its options, in the place of what they say."""
    given = dict(given)
    mapping = to_mapping(settings)
    shape = {name: given.pop(name) for name in ("architecture", "scale", "channels", "blocks") if name in given}
    features = {name: given.pop(name) for name in ("layers", "distance") if name in given}
    loss = given.pop("loss", None)
    if shape.get("architecture", mapping["generator"]["architecture"]) != mapping["generator"]["architecture"]:
        mapping["generator"] = {"scale": mapping["generator"]["scale"]}  # sizes of another generator mean nothing here
    mapping["generator"] |= shape
    if loss is not None:
        kept = {name: mapping["loss"][name] for name in ("layers", "distance")}
        mapping["loss"] = to_mapping(parse_loss(loss)) | kept
    mapping["loss"] |= features
    if "milestones" in given:
        given["milestones"] = _whole_numbers(given["milestones"])
    return from_mapping(TrainSettings, mapping | given, "The command line")


def _whole_numbers(words: str) -> list[int]:
    try:
        return [int(word) for word in words.split(",")]
    except ValueError:
        raise SettingsError(f"--milestones is {words!r}; write whole numbers, as in 5000,8000.") from None


def _resume(path: Path, given: dict[str, Any]) -> None:
    refused = [name for name in given if name not in ON_RESUME + REMEDIES]
    if refused:
        raise SettingsError(
            f"--resume continues a run with its own settings; leave out --{refused[0].replace('_', '-')}, "
            "or begin a new run from its model with --init."
        )
    if path.suffix == ".safetensors":
        raise SettingsError(f"{path} is a model file, from which no run can be resumed. Give the run's folder, or use --init.")

    from srcli.runs import Run

    run = Run(path.parent if path.suffix == ".pt" else path)
    state = run.load(path if path.suffix == ".pt" else None)
    settings = from_mapping(TrainSettings, state["settings"], str(run.checkpoint))
    _train(run, settings_from(settings, given), state["about"], state=state)


def _check_data(settings: TrainSettings) -> None:
    training, validation = _read_photos(settings)
    typer.echo(
        f"{len(training)} photographs to train on, {training.megapixels:.1f} megapixels, "
        f"{training.crops(settings.patch)} crops of {settings.patch}x{settings.patch} side by side."
    )
    typer.echo(f"{len(validation) if validation else 0} photographs to validate on.")


def _read_photos(settings: TrainSettings) -> tuple[Photos, Photos | None]:
    """Photographs to train on and those to validate on. Everything that is wrong with any is an SrcliError."""
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn

    from srcli.photos import Photos
    from srcli.training import crop_size
    from srcli.validation import smallest_side

    assert settings.photos is not None
    if settings.val is not None and settings.lr_data is not None:
        raise SettingsError("With --lr-data, validation is on some of the pairs: use --val-split in the place of --val.")
    smallest = max(crop_size(settings), smallest_side(settings))
    small = Path(settings.lr_data) if settings.lr_data is not None else None
    console = Console(stderr=True)
    columns = SpinnerColumn(), TextColumn("Decoding photographs: {task.completed}")
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        bar = progress.add_task("", total=None)

        def read(folder: str, lr_data: Path | None = None) -> Photos:
            return Photos.read(
                Path(folder),
                smallest=smallest,
                cache=settings.cache,
                lr_data=lr_data,
                scale=settings.generator.scale,
                on_picture=lambda: progress.advance(bar),
            )

        photos = read(settings.photos, small)
        if settings.val is not None:
            return photos, read(settings.val)
    return photos.split(settings.val_split, seed=settings.seed) if settings.val_split else (photos, None)


def _train(
    run: Run, settings: TrainSettings, about: dict[str, Any], *, state: dict[str, Any] | None, overwrite: bool = False
) -> None:
    """Train to the end, or until interrupted. `about` is what the model file will say; `state` is a checkpoint's."""
    from srcli.core.devices import pick_device
    from srcli.core.distributed import join_world, leave_world, local_device
    from srcli.core.losses import WeightedLoss
    from srcli.models import load_feature_loss, load_generator
    from srcli.photos import prefetched
    from srcli.report.curves import draw_curves
    from srcli.report.live import Live
    from srcli.report.strip import draw_strip
    from srcli.runs import ROW_EVERY, History
    from srcli.training import NotFinite, Step, Training, crop_size
    from srcli.training import train as run_training
    from srcli.validation import Scores, Validation

    device = pick_device(local_device(settings.device))
    world = join_world(device)
    if world.is_first and state is None:
        run.check(overwrite=overwrite)
    feature = load_feature_loss(settings.loss.layers, settings.vgg, settings.loss.distance) if settings.loss.feature else None
    training = Training(settings, WeightedLoss(settings.loss, feature, settings.generator.scale), device, world)
    images = settings.batch * world.size
    live = Live(steps=settings.steps, done=0, images=images, quiet=not world.is_first)
    if state is not None:
        training.restore(state)
    elif settings.init:
        source = load_generator(settings.init)
        training.start_from(source)
        if source.scale != settings.generator.scale:
            live.say(f"{settings.init} is a model x{source.scale}: its last layer is left out and begins anew.")
    if not world.is_first:
        world.wait()  # until the first has decoded the photographs
    photos, held_out = _read_photos(settings)
    if world.is_first:
        world.wait()
    fingerprint = about.setdefault("photos", photos.fingerprint)
    if fingerprint != photos.fingerprint:
        live.say(f"The photographs in {settings.photos} are not those that the run began with; it goes on with what there is.")
    if world.is_first:
        if state is None:
            run.create(settings, about["command"])
        else:
            run.forget_after(training.steps)
        run.check_space(training)
    validation = Validation(held_out, settings, training.loss, device) if held_out is not None and world.is_first else None
    history = History(run, settings, images=images, crops=photos.crops(settings.patch))
    live.say(
        f"{len(photos)} photographs to train on, {photos.megapixels:.1f} megapixels, and {len(held_out or ())} to validate on; "
        f"{settings.generator.architecture} x{settings.generator.scale} on {device}, "
        f"{str(training.autocast).removeprefix('torch.')}."
    )
    began = time.monotonic()
    limit = seconds(settings.max_time) if settings.max_time is not None else float("inf")

    def on_step(step: Step) -> None:
        live.step(step, history.epoch(step.number))
        history.add(step)
        if world.is_first and step.number % ROW_EVERY == 0 and step.number % settings.val_every:
            history.write(step.number, training.skipped)

    def on_scores(scores: Scores, improved: bool) -> None:
        if validation is None:
            return
        live.scores(scores, validation.baseline, step=training.steps, improved=improved)
        history.write(training.steps, training.skipped, (scores, validation.baseline))
        if improved:
            run.save_best(training, about, scores)
        draw_curves(run.history, run.curves)
        draw_strip(validation.samples(training.average), run.strip, step=training.steps)

    def on_save() -> None:
        if world.is_first:
            history.write(training.steps, training.skipped)
            run.save(training, about)

    def crops_of(step: int) -> Any:
        part = slice(world.rank * settings.batch, (world.rank + 1) * settings.batch)
        return photos.batch(step, seed=settings.seed, size=images, patch=crop_size(settings), part=part)

    with _interruptions() as interrupted, live:
        try:
            ending = run_training(
                training,
                prefetched(crops_of, training.steps),
                on_step=on_step,
                on_save=on_save,
                validate=validation.measure if validation else None,
                on_scores=on_scores,
                stop=lambda: bool(interrupted) or time.monotonic() - began > limit,
            )
        except NotFinite as error:
            run.keep_batch(error.crops)
            if training.is_finite:
                on_save()
            names = ", ".join(photos.named(error.step - 1, seed=settings.seed, size=images)[:4])
            smaller = f"--lr {settings.lr / 10:g}"
            then = (
                f"Go on from the last sound state with: srcli train --resume {run.folder} {smaller}"
                if run.checkpoint.exists()
                else f"Begin again with {smaller}."
            )
            raise SrcliError(f"{error} {run.not_finite} holds its crops (of {names}). {then}") from None
        except RuntimeError as error:
            if not (settings.compile and type(error).__module__.startswith(("torch._dynamo", "torch._inductor"))):
                raise
            reason = str(error).splitlines()[0]
            raise SrcliError(f"torch.compile failed ({reason}). Install a C++ compiler, or leave out --compile.") from None
        finally:
            leave_world()
    again = f"srcli train --resume {shlex.quote(str(run.folder))}"
    if training.skipped:
        live.say(f"{training.skipped} steps were skipped, as their loss was not finite.")
    if ending == "stopped":
        why = "" if interrupted else f", as its time of {settings.max_time} is over"
        live.say(f"Stopped after step {training.steps} and saved{why}. Continue with: {again}")
    if ending == "patience":
        live.say(f"Ended after step {training.steps}: {settings.patience} validations without a better loss. See {run.best}")
    if interrupted:
        raise typer.Exit(130)
    if world.is_first:
        typer.echo(run.model)


@contextmanager
def _interruptions() -> Iterator[list[int]]:
    """Ctrl-C and SIGTERM do no more than be noted in the list, so that the step that runs is finished and saved."""
    noted: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        noted.append(number)

    before = [(number, signal.signal(number, note)) for number in (signal.SIGINT, signal.SIGTERM)]
    try:
        yield noted
    finally:
        for number, handler in before:
            signal.signal(number, handler)
