"""Model files: what they rebuild, older versions, and damage."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from safetensors.torch import save_file as save_torch_file

from srcli.config import CompactConfig, ResidualConfig
from srcli.core.graph import shapes_of
from srcli.core.networks import build_generator
from srcli.errors import SrcliError
from srcli.inference.backend import load_model
from srcli.models.checkpoint import load_generator, read_torch, save_model
from srcli.models.registry import WEIGHTS, describe_model, read_weights
from tests.conftest import make_model


def test_a_model_file_rebuilds_its_own_generator(tmp_path: Path) -> None:
    generator = load_generator(make_model(tmp_path / "tiny.safetensors", scale=3))
    assert (generator.scale, generator.config.channels, generator.config.blocks) == (3, 8, 2)
    assert not any(weight.requires_grad for weight in generator.parameters())


def test_damaged_weights_are_rejected(tmp_path: Path) -> None:
    path = make_model(tmp_path / "tiny.safetensors", scale=3)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(SrcliError, match=str(path)):
        load_generator(path)


def test_the_residual_body_and_its_slope_come_back_from_a_file(tmp_path: Path) -> None:
    config = ResidualConfig(scale=2, channels=8, blocks=2, slope=0.1)
    save_model(tmp_path / "model.safetensors", build_generator(config), config, {"note": "mine"})
    spec = describe_model(tmp_path / "model.safetensors")
    assert (spec.config, spec.about, spec.kind) == (config, {"note": "mine"}, "faithful")
    assert spec.parameters == shapes_of(config).parameters


def test_int8_data_of_version_2_is_read_by_convolution() -> None:
    path = WEIGHTS / "tiny-x2.safetensors"
    old, new = load_file(path), read_weights(describe_model("tiny-x2:int8"))
    with safe_open(path, "numpy") as file:
        assert json.loads(file.metadata()["srcli"])["format"] == 2
    blocks = describe_model("tiny-x2").config.blocks
    np.testing.assert_array_equal(new["int8.head.scale"], old["int8.channels"][0])
    np.testing.assert_array_equal(new["int8.body.0.scale"], old["int8.channels"][1])
    np.testing.assert_array_equal(new[f"int8.body.{blocks - 2}.scale"], old["int8.channels"][-1])
    np.testing.assert_array_equal(new["int8.body.0.range"], old["int8.ranges"][0])
    np.testing.assert_array_equal(new["int8.tail.range"], old["int8.ranges"][-1])
    assert not {"int8.channels", "int8.ranges"} & new.keys()


def test_a_file_of_a_newer_version_is_rejected(tmp_path: Path) -> None:
    path = make_model(tmp_path / "tiny.safetensors", scale=2)
    with safe_open(path, "numpy") as file:
        description = json.loads(file.metadata()["srcli"])
    description |= {"format": description["format"] + 1, "srcli": "99.0"}
    save_file(load_file(path), path, metadata={"srcli": json.dumps(description)})
    with pytest.raises(SrcliError, match=r"newer version of srcli, 99\.0. Update srcli"):
        describe_model(path)


def test_the_order_of_training_and_fusing_does_not_matter_for_a_file(tmp_path: Path) -> None:
    config = CompactConfig(scale=2, channels=8, blocks=2)
    generator = build_generator(config)
    for name, source in (("trained", generator), ("fused", generator.fused())):
        save_model(
            tmp_path / f"{name}.safetensors", source, config, {}, torch.rand(1, 3, 32, 32, generator=torch.manual_seed(1))
        )
    first, second = (load_file(tmp_path / f"{name}.safetensors") for name in ("trained", "fused"))
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        np.testing.assert_allclose(tensor, second[name], rtol=1e-5)


def changed(path: Path, change: dict[str, object]) -> Path:
    """A model file whose header says something else about its generator."""
    make_model(path, scale=2)
    with safe_open(path, "numpy") as file:
        description = json.loads(file.metadata()["srcli"])
    description["generator"] |= change
    save_file(load_file(path), path, metadata={"srcli": json.dumps(description)})
    return path


@pytest.mark.parametrize(
    "change",
    [
        {"blocks": 10**9},
        {"blocks": 1024},
        {"channels": 10**6},
        {"channels": 1024},
        {"scale": 3},
        {"scale": 10**400},
        {"scale": float("nan")},
        {"blocks": True},
        {"blocks": -1},
        {"blocks": []},
        {"architecture": "johnson", "channels": 1024, "blocks": 1024},
        {"architecture": "residual"},
        {"architecture": "residual", "slope": 10**400},
        {"architecture": "residual", "slope": float("inf")},
        {"architecture": ["compact"]},
    ],
)
def test_a_header_that_does_not_fit_the_weights_is_rejected(tmp_path: Path, change: dict[str, object]) -> None:
    path = changed(tmp_path / "tiny.safetensors", change)
    for load in (load_generator, lambda path: load_model(path, "cpu")):
        with pytest.raises(SrcliError, match=r"tiny\.safetensors"):
            load(path)


@pytest.mark.parametrize(
    "text", ["", "[" * 100_000, "null", "7", "{}", '{"format": 1e999}', '{"format": "x"}', '{"format": null}']
)
def test_a_header_that_is_not_srclis_is_rejected(tmp_path: Path, text: str) -> None:
    path = make_model(tmp_path / "tiny.safetensors", scale=2)
    save_file(load_file(path), path, metadata={"srcli": text})
    with pytest.raises(SrcliError, match="srcli train did not write"):
        describe_model(path)


def test_int8_data_that_are_not_finite_are_rejected(tmp_path: Path) -> None:
    config = CompactConfig(scale=2, channels=8, blocks=2)
    path = tmp_path / "tiny.safetensors"
    save_model(path, build_generator(config), config, {}, torch.rand(1, 3, 32, 32))
    with safe_open(path, "numpy") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    name = next(name for name in tensors if name.endswith(".range"))
    for value in (np.nan, np.inf):
        tensors[name] = np.full_like(tensors[name], value)
        save_file(tensors, path, metadata=metadata)
        with pytest.raises(SrcliError, match="int8 calibration data are not finite"):
            read_weights(describe_model(path))


def test_weights_of_a_number_format_without_arithmetic_are_rejected(tmp_path: Path) -> None:
    path = make_model(tmp_path / "tiny.safetensors", scale=2)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name).to(torch.float8_e4m3fn) for name in file.keys()}  # noqa: SIM118
    save_torch_file(tensors, path, metadata=metadata)
    for load in (load_generator, lambda path: load_model(path, "cpu")):
        with pytest.raises(SrcliError, match=r"tiny\.safetensors is damaged"):
            load(path)


def test_an_archive_that_unpacks_to_much_more_than_its_size_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "bomb.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/0", bytes(10_000_000))
    with pytest.raises(SrcliError, match=r"unpacks to 10000000, so it is probably not a real model"):
        read_torch(path)
