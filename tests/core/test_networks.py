"""Generators as torch modules: sizes, fusing, initialization and receptive fields."""

import math

import pytest
import torch
from torch import nn

from srcli.config import GENERATORS, CompactConfig, GeneratorConfig, JohnsonConfig, ResidualConfig
from srcli.core.networks import Generator, ReparamConv2d, build_generator
from srcli.errors import ConfigError

SMALL = [
    *(CompactConfig(scale=scale, channels=8, blocks=2) for scale in (2, 3, 4)),
    *(ResidualConfig(scale=scale, channels=8, blocks=2, slope=slope) for scale, slope in ((2, 0.0), (3, 0.1), (4, 0.0))),
    *(JohnsonConfig(scale=scale, channels=8, blocks=1) for scale in (2, 3, 4, 8)),
]


def lively(config: GeneratorConfig) -> Generator:
    """A generator in which every weight matters: the tail usually starts at zero."""
    torch.manual_seed(0)
    generator = build_generator(config)
    nn.init.normal_(generator.tail.weight, std=0.1)
    return generator


def test_every_generator_is_tested() -> None:
    assert {config.architecture for config in SMALL} == set(GENERATORS)


@pytest.mark.parametrize("size", [(1, 1), (7, 5), (16, 3)])
@pytest.mark.parametrize("config", SMALL, ids=str)
def test_every_generator_upscales_by_its_scale(config: GeneratorConfig, size: tuple[int, int]) -> None:
    generator = build_generator(config).eval()
    sr = generator(torch.rand(2, 3, *size))
    assert sr.shape == (2, 3, size[0] * config.scale, size[1] * config.scale)
    assert sr.isfinite().all()


@pytest.mark.parametrize("config", SMALL, ids=str)
def test_gradient_reaches_every_weight(config: GeneratorConfig) -> None:
    generator = lively(config)
    generator(torch.rand(2, 3, 9, 7)).square().sum().backward()
    for name, weight in generator.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.abs().sum() > 0, name


@pytest.mark.parametrize("config", SMALL, ids=str)
def test_fused_and_training_form_give_the_same_image(config: GeneratorConfig) -> None:
    generator = lively(config).eval()
    lr = torch.rand(1, 3, 13, 11)
    torch.testing.assert_close(generator.fused()(lr), generator(lr), atol=1e-6, rtol=0)


def test_fusing_leaves_plain_convolutions_only() -> None:
    fused = lively(CompactConfig(channels=8, blocks=3)).fused()
    assert not any(isinstance(module, ReparamConv2d) for module in fused.modules())
    assert sum(isinstance(module, nn.Conv2d) for module in fused.modules()) == 5


def test_a_reparameterized_convolution_is_the_sum_of_its_branches() -> None:
    torch.manual_seed(1)
    conv = ReparamConv2d(4)
    nn.init.normal_(conv.bias)
    x = torch.rand(1, 4, 6, 5)
    torch.testing.assert_close(conv(x), x + nn.functional.conv2d(x, conv.conv3x3, conv.bias, padding=1))


@pytest.mark.parametrize("config", SMALL, ids=str)
def test_a_generator_can_be_initialized_from_a_fused_one(config: GeneratorConfig) -> None:
    source = lively(config).eval()
    torch.manual_seed(7)
    other = build_generator(config).eval()
    assert other.can_initialize_from(source)
    other.load_fused(source.fused())
    lr = torch.rand(1, 3, 8, 8)
    torch.testing.assert_close(other(lr), source(lr), atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", [CompactConfig, ResidualConfig])
def test_a_wider_generator_computes_the_same_as_the_one_it_was_initialized_from(
    kind: type[CompactConfig] | type[ResidualConfig],
) -> None:
    source = lively(kind(scale=3, channels=8, blocks=2)).eval()
    wider = build_generator(kind(scale=3, channels=12, blocks=2))
    assert wider.can_initialize_from(source)
    assert not source.can_initialize_from(wider)
    wider.load_fused(source.fused())
    lr = torch.rand(1, 3, 9, 8)
    torch.testing.assert_close(wider(lr), source(lr), atol=1e-6, rtol=0)
    wider(lr).square().sum().backward()
    assert wider.tail.weight.grad[:, 8:].abs().sum() > 0  # the new channels can be trained


def test_a_generator_with_relu_can_start_from_one_with_leaky_relu() -> None:
    source = lively(ResidualConfig(channels=8, blocks=2, slope=0.1))
    other = build_generator(ResidualConfig(channels=8, blocks=2, slope=0.0))
    assert other.can_initialize_from(source)
    other.load_fused(source)
    torch.testing.assert_close(other.state_dict(), source.state_dict())


@pytest.mark.parametrize(
    "other",
    [CompactConfig(channels=8, blocks=3), ResidualConfig(channels=8, blocks=2), JohnsonConfig(channels=8, blocks=2)],
    ids=str,
)
def test_a_generator_with_other_layers_is_no_source_of_weights(other: GeneratorConfig) -> None:
    assert not build_generator(CompactConfig(channels=8, blocks=2)).can_initialize_from(build_generator(other))


def test_an_independent_implementation_of_the_residual_body_gives_the_same() -> None:
    generator = lively(ResidualConfig(scale=2, channels=8, blocks=2, slope=0.1))
    w = generator.state_dict()

    def conv(x: torch.Tensor, name: str) -> torch.Tensor:
        return nn.functional.conv2d(x, w[f"{name}.weight"], w[f"{name}.bias"], padding=1)

    lr = torch.rand(1, 3, 9, 7)
    x = head = nn.functional.leaky_relu(conv(lr, "head"), 0.1)
    for block in ("body.0", "body.1"):
        x = x + conv(nn.functional.leaky_relu(conv(x, f"{block}.conv1"), 0.1), f"{block}.conv2")
    expected = nn.functional.pixel_shuffle(conv(x + head, "tail"), 2)
    expected = expected + nn.functional.interpolate(lr, scale_factor=2, mode="bilinear")
    torch.testing.assert_close(generator(lr), expected)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_a_generator_of_another_scale_starts_as_the_source_with_its_details_averaged(scale: int) -> None:
    """Both are brought to a size that both scales divide, where each pixel of the new one covers whole pixels of the source."""
    source = lively(ResidualConfig(scale=4, channels=8, blocks=2)).eval()
    other = build_generator(ResidualConfig(scale=scale, channels=8, blocks=2)).eval()
    other.load_fused(source)
    lr = torch.rand(1, 3, 7, 6)

    def details(generator: Generator) -> torch.Tensor:
        upsampled = nn.functional.interpolate(lr, scale_factor=generator.scale, mode="bilinear")
        return generator(lr) - upsampled

    common = math.lcm(4, scale)
    fine = details(source).repeat_interleave(common // 4, -1).repeat_interleave(common // 4, -2)
    torch.testing.assert_close(details(other), nn.functional.avg_pool2d(fine, common // scale), atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", [CompactConfig, ResidualConfig])
def test_an_untrained_body_gives_bilinear_upsampling(kind: type[CompactConfig] | type[ResidualConfig]) -> None:
    lr = torch.rand(1, 3, 6, 7)
    sr = build_generator(kind(scale=3, channels=8, blocks=1))(lr)
    torch.testing.assert_close(sr, nn.functional.interpolate(lr, scale_factor=3, mode="bilinear"))


@pytest.mark.parametrize("config", SMALL, ids=str)
def test_no_pixel_beyond_the_halo_changes_the_output(config: GeneratorConfig) -> None:
    generator = lively(config).eval().double()
    halo, scale = generator.halo, config.scale
    lr = torch.rand(1, 3, 1, 2 * halo + 3, dtype=torch.float64)
    changed = lr.clone()
    changed[..., 0] += 1
    difference = (generator(changed) - generator(lr)).abs().amax(dim=(0, 1, 2))
    assert difference[(halo + 1) * scale :].max() == 0


def test_invalid_sizes_are_rejected() -> None:
    with pytest.raises(ConfigError, match="does not support scale 8; choose one of 2, 3, 4"):
        CompactConfig(scale=8)
    with pytest.raises(ConfigError, match="channels is 0"):
        JohnsonConfig(channels=0)
