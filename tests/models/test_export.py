"""ONNX files compute the same as the generators, at any size."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from srcli.config import JohnsonConfig
from srcli.core.networks import build_generator
from srcli.errors import SrcliError
from srcli.models import export
from srcli.models.checkpoint import load_generator, save_model
from srcli.models.registry import describe_model, shipped_models
from tests.conftest import CommandResult

Command = Callable[..., CommandResult]


@pytest.fixture
def johnson(tmp_path: Path) -> str:
    config = JohnsonConfig(scale=3, channels=8, blocks=1)
    torch.manual_seed(0)
    save_model(tmp_path / "johnson.safetensors", build_generator(config), config, about={})
    return str(tmp_path / "johnson.safetensors")


NETWORKS = {describe_model(name).config: name for name in reversed(shipped_models())}
"""A shipped model of each network."""


@pytest.mark.parametrize("name", [*NETWORKS.values(), "johnson"])
def test_every_network_computes_the_same_in_onnx_at_any_size(srcli: Command, name: str, johnson: str, tmp_path: Path) -> None:
    model = johnson if name == "johnson" else name
    path = tmp_path / "model.onnx"
    result = srcli("export", model, "-o", path)
    assert (result.exit_code, result.stdout) == (0, f"{path}\n")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    generator = load_generator(model)
    about = session.get_modelmeta().custom_metadata_map
    assert (about["scale"], about["halo"]) == (str(generator.scale), str(generator.halo))
    for height, width in ((1, 1), (1, 17), (31, 2), (23, 45), (128, 64)):
        lr = np.random.default_rng(0).random((1, 3, height, width), dtype=np.float32)
        with torch.inference_mode():
            expected = generator(torch.from_numpy(lr)).numpy()
        sr = session.run(["sr"], {"lr": lr})[0]
        assert sr.shape == (1, 3, height * generator.scale, width * generator.scale)
        np.testing.assert_allclose(sr, expected, atol=1e-4)
    assert [entry.name for entry in tmp_path.iterdir() if "onnx" in entry.name] == ["model.onnx"]


def test_a_file_with_different_output_is_deleted(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "TOLERANCE", 0)
    with pytest.raises(SrcliError, match="differs from the model by"):
        export.export_onnx(load_generator(model), tmp_path / "model.onnx")
    assert [entry.name for entry in tmp_path.iterdir()] == [model.name]


def test_errors_are_one_line(srcli: Command, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = tmp_path / "there.onnx"
    there.write_text("mine")
    for arguments, code, message in (
        ((model, "-o", there), 1, "already exists. Use --overwrite"),
        ((model, "-o", tmp_path / "model.pb"), 2, "must end in .onnx"),
        (("bsae-x4",), 2, "Did you mean base-x4"),
        ((f"{model}+",), 1, f"{model.stem}+ names a way to run {model.stem}"),
    ):
        result = srcli("export", *arguments)
        assert result.exit_code == code
        assert message in result.stderr
        assert len(result.stderr.splitlines()) == 1
    assert there.read_text() == "mine"
    monkeypatch.setitem(sys.modules, "onnx", None)
    result = srcli("export", model, "-o", tmp_path / "new.onnx")
    assert result.exit_code == 1
    assert "pip install onnx onnxruntime onnxscript" in result.stderr
