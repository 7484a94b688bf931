"""`srcli train`: a folder of photographs in, a model file out."""

from __future__ import annotations

import json
import shlex
import signal
import sys
from dataclasses import fields
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin, get_type_hints

import typer

from srcli.cli.messages import note, report
from srcli.cli.options import COMMON, MEMORY, Panel, Quiet, Verbose, one_of
from srcli.cli.signals import stop_signals
from srcli.config import (
    GENERATORS,
    LAYER_PRESETS,
    VGG_LAYERS,
    Distance,
    TrainConfig,
    from_mapping,
)
from srcli.errors import ConfigError, counted
from srcli.training.settings import HELP, json_schema, merge, read_yaml, write_yaml

if TYPE_CHECKING:
    from srcli.training.run import TrainingRun

DEFAULT = TrainConfig()
FIELDS = {field.name: field for field in fields(TrainConfig)}
TYPES = get_type_hints(TrainConfig)

COMMAND_LINE = "The command line"
"""Where settings are, in messages."""

ON_RESUME = ("photos", "lr_data", "val", "cache", "device", "save_every", "keep", "patience", "max_time", "log", "mirror")
"""Options that may be changed when a run is resumed, as they do not influence the result."""

EXTENDING = ("steps", "train_for")
"""Options that let a finished run go on, with a new schedule."""

AGAINST_DIVERGENCE = ("lr", "clip", "precision")
"""Options that may be changed as well, for a run that has diverged."""


GENERATOR = Panel("Generator")
LOSS = Panel("Loss")
DATA = Panel("Training data")
OPTIMIZER = Panel("Optimizer")
RUN = Panel("Run folder")
SETTINGS = Panel("Settings files")

EXAMPLES = """
srcli train photos -o runs/first
srcli train photos -c examples/base-x4.yaml -o runs/second --max-time 2h
srcli train --resume runs/first
"""


def _option(panel: Panel, name: str, *flags: str, metavar: str | None = None) -> Any:
    """The option of a field of `TrainConfig`. If it is not given, the YAML file or the default applies."""
    field, kind = FIELDS[name], TYPES[name]
    default = field.default
    shown = f" [default: {default}]" if default not in (None, ()) and default is not False else ""
    choices = get_args(kind) if get_origin(kind) is Literal else ()
    return panel.option(
        *(flags or (f"--{name.replace('_', '-')}",)),
        metavar=metavar if metavar is not None else {int: "N", float: "X", bool: ""}.get(kind, "WHICH"),
        help=field.metadata["help"] + shown,
        show_default=False,
        autocompletion=one_of(*choices) if choices else None,
    )


def train(
    ctx: typer.Context,
    photos: Annotated[str | None, typer.Argument(metavar="PHOTOS", help=FIELDS["photos"].metadata["help"])] = None,
    output: Annotated[str | None, _option(COMMON, "output", "-o", "--output", metavar="RUN")] = None,
    config_file: Annotated[
        Path | None, COMMON.option("-c", "--config", metavar="FILE", help="YAML file with settings; options override it.")
    ] = None,
    resume: Annotated[
        Path | None,
        COMMON.option("--resume", metavar="RUN", help="Resume the run in this folder, or from this checkpoint."),
    ] = None,
    scale: Annotated[
        int | None,
        COMMON.option("-s", "--scale", metavar="N", help=f"{HELP['scale']} [default: {DEFAULT.generator.scale}]"),
    ] = None,
    init: Annotated[str | None, _option(COMMON, "init", metavar="MODEL")] = None,
    steps: Annotated[int | None, _option(COMMON, "steps")] = None,
    batch: Annotated[int | None, _option(COMMON, "batch", "-b", "--batch")] = None,
    loss: Annotated[
        str | None,
        COMMON.option(
            "--loss",
            metavar="TERMS",
            help="Terms with weights, as in pixel=1,l1=0.1; see srcli losses. [default: pixel=1]",
        ),
    ] = None,
    degradation: Annotated[str | None, _option(COMMON, "degradation")] = None,
    train_for: Annotated[str | None, _option(COMMON, "train_for", metavar="TIME")] = None,
    max_time: Annotated[str | None, _option(COMMON, "max_time", metavar="TIME")] = None,
    device: Annotated[str | None, _option(COMMON, "device", "-d", "--device", metavar="DEVICE")] = None,
    architecture: Annotated[
        str | None,
        GENERATOR.option(
            "--generator",
            metavar="WHICH",
            help=f"{HELP['architecture']} [default: compact]",
            autocompletion=one_of(*GENERATORS),
        ),
    ] = None,
    channels: Annotated[
        int | None, GENERATOR.option("--channels", metavar="N", help=f"{HELP['channels']} [default: by generator]")
    ] = None,
    blocks: Annotated[
        int | None, GENERATOR.option("--blocks", metavar="N", help=f"{HELP['blocks']} [default: by generator]")
    ] = None,
    slope: Annotated[
        float | None,
        GENERATOR.option("--slope", metavar="X", help=f"{HELP['slope']} [default: 0]"),
    ] = None,
    layers: Annotated[
        str | None,
        LOSS.option(
            "--layers",
            metavar="LAYERS",
            help=f"{HELP['layers']} [default: first23]",
            autocompletion=one_of(*LAYER_PRESETS, *VGG_LAYERS),
        ),
    ] = None,
    distance: Annotated[
        str | None,
        LOSS.option(
            "--distance",
            metavar="WHICH",
            help=f"{HELP['distance']} [default: squared]",
            autocompletion=one_of(*get_args(Distance)),
        ),
    ] = None,
    teacher: Annotated[str | None, _option(LOSS, "teacher", metavar="MODEL")] = None,
    teacher_weight: Annotated[float | None, _option(LOSS, "teacher_weight")] = None,
    teacher_skip: Annotated[str | None, _option(LOSS, "teacher_skip", metavar="PATTERN")] = None,
    unlabeled: Annotated[str | None, _option(LOSS, "unlabeled")] = None,
    vgg: Annotated[str | None, _option(LOSS, "vgg", metavar="FILE")] = None,
    check_data: Annotated[bool, DATA.flag("--check-data", help="Read the photographs, report problems, and exit.")] = False,
    lr_data: Annotated[str | None, _option(DATA, "lr_data", metavar="DIR")] = None,
    strict: Annotated[bool | None, _option(DATA, "strict", "--strict/--no-strict")] = None,
    val: Annotated[str | None, _option(DATA, "val", metavar="DIR")] = None,
    val_split: Annotated[float | None, _option(DATA, "val_split")] = None,
    val_every: Annotated[int | None, _option(DATA, "val_every")] = None,
    cache: Annotated[str | None, _option(DATA, "cache", metavar="DIR")] = None,
    patch: Annotated[int | None, _option(DATA, "patch")] = None,
    seed: Annotated[int | None, _option(DATA, "seed")] = None,
    lr: Annotated[float | None, _option(OPTIMIZER, "lr")] = None,
    adversarial_lr: Annotated[float | None, _option(OPTIMIZER, "adversarial_lr")] = None,
    optimizer: Annotated[str | None, _option(OPTIMIZER, "optimizer")] = None,
    weight_decay: Annotated[float | None, _option(OPTIMIZER, "weight_decay")] = None,
    warmup: Annotated[int | None, _option(OPTIMIZER, "warmup")] = None,
    schedule: Annotated[str | None, _option(OPTIMIZER, "schedule")] = None,
    milestones: Annotated[str | None, _option(OPTIMIZER, "milestones", metavar="STEPS")] = None,
    clip: Annotated[float | None, _option(OPTIMIZER, "clip")] = None,
    ema: Annotated[float | None, _option(OPTIMIZER, "ema")] = None,
    precision: Annotated[str | None, _option(MEMORY, "precision")] = None,
    compile: Annotated[bool | None, _option(MEMORY, "compile", "--compile/--no-compile")] = None,
    accumulate: Annotated[int | None, _option(MEMORY, "accumulate")] = None,
    overwrite: Annotated[bool, RUN.flag("--overwrite", help="Replace the run in the folder.")] = False,
    print_settings: Annotated[
        bool, SETTINGS.flag("--print-settings", help="Print all settings as a commented YAML file, and exit.")
    ] = False,
    print_config: Annotated[bool, typer.Option("--print-config", hidden=True)] = False,
    print_schema: Annotated[
        bool, SETTINGS.flag("--print-schema", help="Print a JSON schema of settings files for editors, and exit.")
    ] = False,
    save_every: Annotated[int | None, _option(RUN, "save_every")] = None,
    mirror: Annotated[str | None, _option(RUN, "mirror", metavar="URL")] = None,
    keep: Annotated[int | None, _option(RUN, "keep")] = None,
    patience: Annotated[int | None, _option(RUN, "patience")] = None,
    log: Annotated[str | None, _option(RUN, "log")] = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Train a generator on a folder of photographs.

    Writes RUN/model.safetensors at intervals, which srcli upscale -m can use at any time, and RUN/best.safetensors, the model
    with the lowest validation loss. Under torchrun, each process takes a batch of its own.
    """
    given = {name: value for name, value in ctx.params.items() if value is not None}
    for name in ("config_file", "resume", "overwrite", "print_settings", "print_config", "print_schema", "check_data"):
        given.pop(name, None)
    if print_config:
        report("--print-config is now called --print-settings; the old name will be removed in the next version.")
    if print_schema:
        print(json.dumps(json_schema(), indent=2))
        return
    if resume is not None:
        if config_file is not None or overwrite or print_settings or check_data:
            raise ConfigError("--resume cannot be combined with --config, --overwrite, --print-settings or --check-data.")
        _resume(resume, given)
        return
    config = merge(read_yaml(config_file) if config_file else DEFAULT, given, COMMAND_LINE)
    if print_settings or print_config:
        print(
            f"# Every key is optional. Usage: srcli train -c FILE; options override the file.\n\n{write_yaml(config)}", end=""
        )
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


def _resume(path: Path, given: dict[str, Any]) -> None:
    refused = [name for name in given if name not in ON_RESUME + AGAINST_DIVERGENCE + EXTENDING]
    if refused:
        raise ConfigError(
            f"--resume continues a run with its own settings; leave out --{refused[0].replace('_', '-')}, "
            "or start a new run from its model with --init."
        )
    if path.suffix == ".safetensors":
        raise ConfigError(f"{path} is a model file, which cannot be resumed. Give the folder of the run, or use --init.")

    from srcli.cli.train_progress import TerminalProgress
    from srcli.training.run import TrainingRun
    from srcli.training.run_dir import RunDirectory, is_finished

    directory = RunDirectory(path.parent if path.suffix == ".pt" else path)
    if path.suffix != ".pt" and directory.without_checkpoint:
        config = merge(read_yaml(directory.config_file), given | {"output": str(path)}, COMMAND_LINE)
        command = shlex.join(["srcli", *sys.argv[1:]])
        _train(TrainingRun.begin(directory, config, command, overwrite=False, progress=TerminalProgress()))
        return
    state = directory.load(path if path.suffix == ".pt" else None)
    before = from_mapping(TrainConfig, state["settings"], str(directory.checkpoint))
    config = merge(before, given, COMMAND_LINE)
    extend = is_finished(state, before)
    if not extend and set(given) & set(EXTENDING):
        raise ConfigError(f"{path} has not finished yet, so it cannot be extended. Resume it without --steps or --train-for.")
    if extend and is_finished(state if config.train_for == before.train_for else {"steps": 0}, config):
        report(f"{path} has finished after {state['steps']} steps. Set `steps` to a larger number to train on.")
        print(directory.model)
        return
    _train(TrainingRun.resume(directory, config, state, extend=extend, progress=TerminalProgress()))


def _check_data(config: TrainConfig) -> None:
    from srcli.training.folder import ignored
    from srcli.training.photos import Reading, read_photos, too_large
    from srcli.training.stream import StreamedPhotos

    why = too_large(config)
    if why:
        report(why)
    photos, held_out = read_photos(config, on_message=report, chunks=Reading() if why or config.cache == "stream" else None)
    if isinstance(photos, StreamedPhotos):
        photos.at(0)
        photos.close()
        print(f"{photos.description}, of which the first chunk was read.")
        print(f"{counted(len(held_out or ()), 'photograph')} to validate on.")
        return
    for sentence in photos.left_out:
        report(f"Left out: {sentence}")
    if photos.ignored:
        report(f"Left out: {ignored(photos.ignored)}.")
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
    if ending != "stopped" and run.world.is_first:
        model = run.directory.best if run.directory.best.exists() else run.directory.model
        note(f"Use it with: srcli upscale IMAGE -m {shlex.quote(str(model))}")
    if run.world.is_first:
        print(run.directory.model)
