"""`srcli train`: a folder of photographs in, a model file out."""

from __future__ import annotations

import shlex
import signal
import sys
from dataclasses import fields
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from srcli.config import TrainConfig, from_mapping, parse_loss, read_yaml, to_mapping, write_yaml
from srcli.errors import ConfigError

if TYPE_CHECKING:
    from srcli.training.run import TrainingRun

DEFAULT = TrainConfig()
FIELDS = {field.name: field for field in fields(TrainConfig)}

ON_RESUME = ("photos", "lr_data", "val", "cache", "device", "save_every", "keep", "patience", "max_time", "log")
"""What may be said anew when a run is resumed, and changes nothing of what the run learns."""

REMEDIES = ("lr", "clip", "precision")
"""What may be said anew as well, for a run that has diverged."""


def _option(name: str, *flags: str, metavar: str | None = None) -> Any:
    """The option of a field of `TrainConfig`, which is left to the YAML file, and then to its default, if not given."""
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
    config_file: Annotated[
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
    for name in ("config_file", "resume", "overwrite", "print_config", "check_data"):
        given.pop(name, None)
    if resume is not None:
        if config_file is not None or overwrite or print_config or check_data:
            raise ConfigError("--resume goes with neither --config, --overwrite, --print-config nor --check-data.")
        _resume(resume, given)
        return
    config = config_from(read_yaml(config_file) if config_file else DEFAULT, given)
    if print_config:
        typer.echo(write_yaml(config), nl=False)
        return
    if config.photos is None:
        raise ConfigError("Give a folder of photographs to train on, as in srcli train PHOTOS -o RUN.")
    if check_data:
        _check_data(config)
        return
    if config.output is None:
        raise ConfigError("Give a folder for the run with -o RUN.")

    from srcli.training.run import TrainingRun
    from srcli.training.run_dir import RunDirectory

    command = shlex.join(["srcli", *sys.argv[1:]])
    _go(TrainingRun.begin(RunDirectory(Path(config.output)), config, command, overwrite=overwrite))


def config_from(config: TrainConfig, given: dict[str, Any]) -> TrainConfig:
    """The settings with what the command line says, by the names of its options, in the place of what they say."""
    given = dict(given)
    mapping = to_mapping(config)
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
    return from_mapping(TrainConfig, mapping | given, "The command line")


def _whole_numbers(words: str) -> list[int]:
    try:
        return [int(word) for word in words.split(",")]
    except ValueError:
        raise ConfigError(f"--milestones is {words!r}; write whole numbers, as in 5000,8000.") from None


def _resume(path: Path, given: dict[str, Any]) -> None:
    refused = [name for name in given if name not in ON_RESUME + REMEDIES]
    if refused:
        raise ConfigError(
            f"--resume continues a run with its own settings; leave out --{refused[0].replace('_', '-')}, "
            "or begin a new run from its model with --init."
        )
    if path.suffix == ".safetensors":
        raise ConfigError(f"{path} is a model file, from which no run can be resumed. Give the run's folder, or use --init.")

    from srcli.training.run import TrainingRun
    from srcli.training.run_dir import RunDirectory

    run = RunDirectory(path.parent if path.suffix == ".pt" else path)
    state = run.load(path if path.suffix == ".pt" else None)
    config = from_mapping(TrainConfig, state["settings"], str(run.checkpoint))
    _go(TrainingRun.resume(run, config_from(config, given), state))


def _check_data(config: TrainConfig) -> None:
    from srcli.training.run import read_photos

    trainer, validation = read_photos(config)
    typer.echo(
        f"{len(trainer)} photographs to train on, {trainer.megapixels:.1f} megapixels, "
        f"{trainer.crops(config.patch)} crops of {config.patch}x{config.patch} side by side."
    )
    typer.echo(f"{len(validation) if validation else 0} photographs to validate on.")


def _go(session: TrainingRun) -> None:
    """Train, and leave with 130 if it was interrupted: Ctrl-C and SIGTERM let the step that runs end, and save."""
    noted: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        noted.append(number)

    before = [(number, signal.signal(number, note)) for number in (signal.SIGINT, signal.SIGTERM)]
    try:
        session.train(interrupted=lambda: bool(noted))
    finally:
        for number, handler in before:
            signal.signal(number, handler)
    if noted:
        raise typer.Exit(130)
    if session.world.is_first:
        typer.echo(session.run.model)
