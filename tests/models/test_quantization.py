"""Calibration for int8 inference."""

import numpy as np
import pytest
import torch

from srcli.config import CompactConfig, GeneratorConfig, JohnsonConfig, ResidualConfig
from srcli.core.graph import shapes_of
from srcli.core.networks import build_generator
from srcli.models.quantization import calibrate, fake_quantize

LR = torch.rand(2, 3, 40, 40, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "config", [CompactConfig(scale=2, channels=8, blocks=2), ResidualConfig(scale=2, channels=8, blocks=2)], ids=str
)
def test_every_quantized_convolution_has_a_range_and_every_group_a_scale(config: GeneratorConfig) -> None:
    torch.manual_seed(0)
    tensors, shapes = calibrate(build_generator(config), LR), shapes_of(config)
    quantized = {name for name, conv in shapes.convs.items() if conv.quantize}
    assert "head" not in quantized
    assert tensors.keys() == {f"int8.{name}.range" for name in quantized} | {
        f"int8.{group}.scale" for group in shapes.scale_groups
    }
    for name, channels in shapes.scale_groups.items():
        scale = tensors[f"int8.{name}.scale"]
        assert scale.shape == (channels,)
        assert (scale > 0).all()
        assert scale.max() == 1
    for name in quantized:
        low, high = tensors[f"int8.{name}.range"]
        assert low <= 0 < high
        assert fake_quantize(torch.zeros(1), low, high).abs().item() < 1e-6  # zero is a level


def test_activations_after_relu_use_all_levels_above_zero() -> None:
    config = ResidualConfig(scale=2, channels=8, blocks=1)
    low, _ = calibrate(build_generator(config), LR)["int8.body.0.conv2.range"]
    assert low == 0


def test_a_channel_that_is_always_zero_gets_a_finite_scale() -> None:
    generator = build_generator(CompactConfig(scale=2, channels=8, blocks=1))
    with torch.no_grad():
        generator.head.weight[3] = 0
        generator.head.bias[3] = 0
    assert all(tensor.isfinite().all() for tensor in calibrate(generator, LR).values())


def test_a_generator_without_a_body_has_no_calibration_data() -> None:
    assert calibrate(build_generator(JohnsonConfig(scale=2, channels=8, blocks=1)), LR) == {}


def test_fake_quantization_rounds_to_equally_spaced_levels() -> None:
    values = torch.tensor([-2.0, -0.26, 0.1, 0.37, 9.0])
    np.testing.assert_allclose(fake_quantize(values, torch.tensor(-1.0), torch.tensor(1.0), levels=4), [-1, -0.5, 0, 0.5, 1])
