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

from srcli.cli.messages import report
from srcli.cli.signals import stop_signals
from srcli.config import TrainConfig, from_mapping, parse_loss, read_yaml, to_mapping, write_yaml
from srcli.errors import ConfigError, counted

if TYPE_CHECKING:
    from srcli.training.run import TrainingRun

DEFAULT = TrainConfig()
FIELDS = {field.name: field for field in fields(TrainConfig)}

ON_RESUME = ("photos", "lr_data", "val", "cache", "device", "save_every", "keep", "patience", "max_time", "log")
"""Options that may be changed when a run is resumed, as they do not influence the result."""

AGAINST_DIVERGENCE = ("lr", "clip", "precision")
"""Options that may be changed as well, for a run that has diverged."""


def _option(name: str, *flags: str, metavar: str | None = None) -> Any:
    """The option of a field of `TrainConfig`. If it is not given, the YAML file or the default applies."""
    default = FIELDS[name].default
    shown = f" [default: {default}]" if default not in (None, ()) and default is not False else ""
    text = FIELDS[name].metadata["help"] + shown
    return typer.Option(*(flags or (f"--{name.replace('_', '-')}",)), help=text, metavar=metavar, show_default=False)


def _part(flag: str, help: str, default: str, metavar: str | None = None) -> Any:
    """An option for a part of the generator or of the loss."""
    return typer.Option(flag, help=f"{help} [default: {default}]", metavar=metavar, show_default=False)


def train(
    ctx: typer.Context,
    photos: Annotated[str | None, typer.Argument(help=FIELDS["photos"].metadata["help"], show_default=False)] = None,
    output: Annotated[str | None, _option("output", "-o", "--output", metavar="RUN")] = None,
    config_file: Annotated[
        Path | None, typer.Option("-c", "--config", metavar="FILE", help="YAML file with settings; options override it.")
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option("--resume", metavar="RUN", help="Resume the run in this folder, or from this checkpoint."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run in the folder.")] = False,
    print_config: Annotated[bool, typer.Option("--print-config", help="Print the complete YAML file and exit.")] = False,
    check_data: Annotated[bool, typer.Option("--check-data", help="Read the photographs, report problems, and exit.")] = False,
    init: Annotated[str | None, _option("init", metavar="MODEL")] = None,
    architecture: Annotated[str | None, _part("--generator", "compact, residual or johnson.", "compact")] = None,
    scale: Annotated[int | None, _part("--scale", "Upscaling factor.", str(DEFAULT.generator.scale))] = None,
    channels: Annotated[int | None, _part("--channels", "Channels of the generator.", "by generator")] = None,
    blocks: Annotated[int | None, _part("--blocks", "Blocks of the generator.", "by generator")] = None,
    slope: Annotated[float | None, _part("--slope", "Slope of residual's leaky ReLU; 0 is ReLU.", "0")] = None,
    loss: Annotated[
        str | None,
        _part("--loss", "Terms with weights, as in pixel=1,feature=0.1; see srcli losses.", "pixel=1", metavar="TERMS"),
    ] = None,
    layers: Annotated[
        str | None,
        _part(
            "--layers",
            "VGG16 layers of the feature loss, such as relu2_2=0.5,relu4_3, or johnson, gatys, first23.",
            "first23",
            metavar="LAYERS",
        ),
    ] = None,
    distance: Annotated[
        str | None, _part("--distance", "Distance of features: squared or absolute.", "squared", metavar="WHICH")
    ] = None,
    vgg: Annotated[str | None, _option("vgg", metavar="FILE")] = None,
    degradation: Annotated[str | None, _option("degradation")] = None,
    lr_data: Annotated[str | None, _option("lr_data", metavar="DIR")] = None,
    strict: Annotated[bool | None, _option("strict", "--strict/--no-strict")] = None,
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
    adversarial_lr: Annotated[float | None, _option("adversarial_lr")] = None,
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

    Writes RUN/model.safetensors at intervals, which srcli upscale -m can use at any time, and RUN/best.safetensors, the model
    with the lowest validation loss. Under torchrun, each process takes a batch of its own.
    """
    given = {name: value for name, value in ctx.params.items() if value is not None}
    for name in ("config_file", "resume", "overwrite", "print_config", "check_data"):
        given.pop(name, None)
    if resume is not None:
        if config_file is not None or overwrite or print_config or check_data:
            raise ConfigError("--resume cannot be combined with --config, --overwrite, --print-config or --check-data.")
        _resume(resume, given)
        return
    config = config_from(read_yaml(config_file) if config_file else DEFAULT, given)
    if print_config:
        print(write_yaml(config), end="")
        return
    if config.photos is None:
        raise ConfigError("Give a folder of photographs, as in srcli train PHOTOS -o RUN.")
    if check_data:
        _check_data(config)
        return
    if config.output is None:
        raise ConfigError("Give a folder for the run with -o RUN.")

    from srcli.cli.train_progress import TerminalProgress
    from srcli.training.run import TrainingRun
    from srcli.training.run_dir import RunDirectory

    command = shlex.join(["srcli", *sys.argv[1:]])
    directory = RunDirectory(Path(config.output))
    _train(TrainingRun.begin_or_continue(directory, config, command, overwrite=overwrite, progress=TerminalProgress()))


def config_from(config: TrainConfig, given: dict[str, Any]) -> TrainConfig:
    """The config with the options given on the command line."""
    given = dict(given)
    mapping = to_mapping(config)
    sizes = {name: given.pop(name) for name in ("architecture", "scale", "channels", "blocks", "slope") if name in given}
    features = {name: given.pop(name) for name in ("layers", "distance") if name in given}
    loss = given.pop("loss", None)
    if sizes.get("architecture", mapping["generator"]["architecture"]) != mapping["generator"]["architecture"]:
        mapping["generator"] = {"scale": mapping["generator"]["scale"]}  # the sizes belong to another generator
    mapping["generator"] |= sizes
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
        raise ConfigError(f"--milestones is {words!r}; write integers, as in 5000,8000.") from None


def _resume(path: Path, given: dict[str, Any]) -> None:
    refused = [name for name in given if name not in ON_RESUME + AGAINST_DIVERGENCE]
    if refused:
        raise ConfigError(
            f"--resume continues a run with its own settings; leave out --{refused[0].replace('_', '-')}, "
            "or start a new run from its model with --init."
        )
    if path.suffix == ".safetensors":
        raise ConfigError(f"{path} is a model file, which cannot be resumed. Give the folder of the run, or use --init.")

    from srcli.cli.train_progress import TerminalProgress
    from srcli.training.run import TrainingRun
    from srcli.training.run_dir import RunDirectory

    directory = RunDirectory(path.parent if path.suffix == ".pt" else path)
    if path.suffix != ".pt" and directory.without_checkpoint:
        config = config_from(read_yaml(directory.config_file), given | {"output": str(path)})
        command = shlex.join(["srcli", *sys.argv[1:]])
        _train(TrainingRun.begin(directory, config, command, overwrite=False, progress=TerminalProgress()))
        return
    state = directory.load(path if path.suffix == ".pt" else None)
    config = from_mapping(TrainConfig, state["settings"], str(directory.checkpoint))
    _train(TrainingRun.resume(directory, config_from(config, given), state, progress=TerminalProgress()))


def _check_data(config: TrainConfig) -> None:
    from srcli.training.run import read_photos

    photos, held_out = read_photos(config)
    for sentence in photos.left_out:
        report(f"Left out: {sentence}")
    print(
        f"{counted(len(photos), 'photograph')} to train on, {photos.megapixels:.1f} megapixels, "
        f"{counted(photos.crops(config.patch), 'crop')} of {config.patch}x{config.patch} without overlap."
    )
    print(f"{counted(len(held_out or ()), 'photograph')} to validate on.")


def _train(run: TrainingRun) -> None:
    """Train. Ctrl-C, SIGTERM and a closed terminal finish the current step, save, and exit with 130."""
    signals: list[int] = []

    def remember(number: int, _frame: FrameType | None) -> None:
        signals.append(number)

    before = [(number, signal.signal(number, remember)) for number in stop_signals()]
    try:
        ending = run.train(interrupted=lambda: bool(signals))
    finally:
        for number, handler in before:
            signal.signal(number, handler)
    if ending == "stopped" and run.world.is_first:
        print(f"Continue with: srcli train --resume {shlex.quote(str(run.directory.folder))}", file=sys.stderr)
    if signals:
        raise typer.Exit(130)
    if run.world.is_first:
        print(run.directory.model)
