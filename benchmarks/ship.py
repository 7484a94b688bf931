"""Put the model of a training run into the package, with a description.

    python benchmarks/ship.py RUN NAME PHOTOS --config examples/NAME.yaml [--init MODEL] --data WORDS --machine WORDS
                              [--average MODEL [--share 0.5]]

Replaces the local paths in the run's description by a command that anyone can run. PHOTOS are used for int8 calibration.
--average ships a mean of the weights of the run, with this share, and of MODEL, from which the run was fine-tuned. It
keeps what MODEL knew (Wortsman et al. 2022, "Robust fine-tuning of zero-shot models").
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from quantize import lr_images

from srcli.config import TrainConfig, from_mapping, to_mapping
from srcli.models.checkpoint import load_generator, save_model
from srcli.models.registry import WEIGHTS, describe_model
from srcli.training.settings import read_yaml


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("name")
    parser.add_argument("photos", type=Path)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--init")
    parser.add_argument("--average", type=Path, metavar="MODEL")
    parser.add_argument("--share", type=float, default=0.5)
    parser.add_argument("--data", required=True)
    parser.add_argument("--machine", required=True)
    options = parser.parse_args()
    description = describe_model(options.run / "model.safetensors")
    # --init and --machine describe these; they differ on other machines
    trained, config = (
        replace(each, init=None, device="auto")
        for each in (
            from_mapping(TrainConfig, description.about["settings"], str(options.run)),
            read_yaml(options.config).portable(),
        )
    )
    if trained != config:
        raise SystemExit(f"{options.run} was not trained with {options.config}: {trained} against {config}")
    if config.train_for is None and description.about["steps"] != config.steps:
        raise SystemExit(f"{options.run} has taken {description.about['steps']} of {config.steps} steps.")
    first = f" --init {options.init}" if options.init else ""
    about = {
        "command": f"srcli train PHOTOS -c {options.config.as_posix()}{first} -o RUN",
        "data": options.data,
        "machine": options.machine,
        "settings": to_mapping(config),
        **{name: description.about[name] for name in ("steps", "torch")},
    }
    generator = load_generator(description)
    if options.average:
        about["average"] = f"{options.share:g} of these weights and {1 - options.share:g} of those of {options.average}"
        before = load_generator(options.average).state_dict()
        after = generator.state_dict()
        generator.load_state_dict({name: before[name].lerp(weight, options.share) for name, weight in after.items()})
    lr = lr_images(options.photos, description)
    save_model(WEIGHTS / f"{options.name}.safetensors", generator, description.config, about, lr)


if __name__ == "__main__":
    main()
