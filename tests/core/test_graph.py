"""What follows from the description of a network body alone."""

import numpy as np
import pytest

from srcli.config import CompactConfig, GeneratorConfig, ResidualConfig
from srcli.core.graph import BODIES, Shapes, shapes_of
from srcli.core.networks import build_generator

CONFIGS = [CompactConfig(scale=3, channels=8, blocks=3), ResidualConfig(scale=2, channels=8, blocks=3)]


def test_every_body_is_tested() -> None:
    assert {type(config) for config in CONFIGS} == set(BODIES)


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_parameters_are_those_of_the_fused_module(config: GeneratorConfig) -> None:
    weights = build_generator(config).fused().state_dict()
    shapes = shapes_of(config)
    assert shapes.parameters == sum(weight.numel() for weight in weights.values())
    assert {f"{name}.weight" for name in shapes.convs} == {name for name in weights if name.endswith(".weight")}


def test_halo_counts_the_3x3_convolutions_in_a_row() -> None:
    assert shapes_of(CompactConfig(blocks=9)).halo == 11
    assert shapes_of(ResidualConfig(blocks=8)).halo == 18


def test_operations_of_a_known_network() -> None:
    # head 3 to 64, 16 convolutions 64 to 64, tail 64 to 48, each 3x3
    assert shapes_of(ResidualConfig(scale=4, channels=64, blocks=8)).operations == 9 * (3 * 64 + 16 * 64 * 64 + 64 * 48)


def test_channels_that_are_added_share_a_scale_group() -> None:
    compact, residual = (shapes_of(config) for config in CONFIGS)
    assert compact.scale_groups == {"head": 8, "body.0": 8, "body.1": 8}  # body.2 is added to head
    assert compact.group("body.2") == "head"
    assert residual.scale_groups == {"head": 8, "body.0.conv1": 8, "body.1.conv1": 8, "body.2.conv1": 8}
    assert residual.input_groups("body.1.conv1") == residual.input_groups("tail") == {"head": 1}


def test_a_product_has_the_product_of_the_scales_and_the_output_has_none() -> None:
    shapes = Shapes()

    def gated(ops: Shapes) -> None:
        x = ops.conv("head", ops.input(), 4, quantize=False)
        gate = ops.mul(ops.conv("a", x, 4), ops.conv("b", x, 4))
        ops.upsample(ops.conv("tail", ops.conv("out", gate, 4, size=1), 12), ops.input(), 2)

    gated(shapes)
    assert shapes.input_groups("out") == {"a": 1, "b": 1}
    assert "tail" not in shapes.scale_groups


def test_a_sum_of_values_with_different_exponents_is_not_scaled() -> None:
    shapes = Shapes()
    x = shapes.conv("head", shapes.input(), 4, quantize=False)
    product = shapes.mul(x, shapes.conv("a", x, 4))
    shapes.conv("out", shapes.add(x, product), 4)
    assert shapes.scale_groups.keys() == {"out"}
    assert shapes.input_groups("out") == {}


def test_memory_grows_with_the_widest_convolution() -> None:
    sizes = [shapes_of(ResidualConfig(channels=channels)).bytes_per_pixel for channels in (64, 96, 128)]
    np.testing.assert_allclose(np.diff(sizes), sizes[1] - sizes[0])
    assert sizes[0] < sizes[1]
