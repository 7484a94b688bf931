"""Generators: the sizes, the folding and the reach that the rest relies on."""

import pytest
import torch
from torch import nn

from srcli.config import GENERATORS, CompactConfig, GeneratorConfig, JohnsonConfig
from srcli.core.networks import Generator, ReparamConv2d, build_generator
from srcli.errors import ConfigError

SMALL = [
    *(CompactConfig(scale=scale, channels=8, blocks=2) for scale in (2, 3, 4)),
    *(JohnsonConfig(scale=scale, channels=8, blocks=1) for scale in (2, 3, 4, 8)),
]


def lively(config: GeneratorConfig) -> Generator:
    """A generator whose every weight matters: the compact one starts with an empty tail."""
    torch.manual_seed(0)
    generator = build_generator(config)
    nn.init.normal_(generator.tail.weight, std=0.1)
    return generator


def test_every_generator_is_tested() -> None:
    assert {config.architecture for config in SMALL} == set(GENERATORS)


@pytest.mark.parametrize("size", [(1, 1), (7, 5), (16, 3)])
@pytest.mark.parametrize("config", SMALL, ids=str)
def test_every_generator_enlarges_by_its_scale(config: GeneratorConfig, size: tuple[int, int]) -> None:
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
def test_folded_and_unfolded_give_the_same_picture(config: GeneratorConfig) -> None:
    generator = lively(config).eval()
    lr = torch.rand(1, 3, 13, 11)
    torch.testing.assert_close(generator.fused()(lr), generator(lr), atol=1e-6, rtol=0)


def test_folding_leaves_one_convolution_for_each_sum_of_branches() -> None:
    fused = lively(CompactConfig(channels=8, blocks=3)).fused()
    assert not any(isinstance(module, ReparamConv2d) for module in fused.modules())
    assert sum(isinstance(module, nn.Conv2d) for module in fused.modules()) == 5


def test_the_kernel_of_a_branched_convolution_is_the_sum_of_its_branches() -> None:
    torch.manual_seed(1)
    conv = ReparamConv2d(4)
    nn.init.normal_(conv.bias)
    x = torch.rand(1, 4, 6, 5)
    torch.testing.assert_close(conv(x), x + nn.functional.conv2d(x, conv.conv3x3, conv.bias, padding=1))


@pytest.mark.parametrize("config", SMALL, ids=str)
def test_a_fresh_generator_takes_over_a_folded_one(config: GeneratorConfig) -> None:
    source = lively(config).eval()
    torch.manual_seed(7)
    other = build_generator(config).eval()
    other.load_fused(source.fused())
    lr = torch.rand(1, 3, 8, 8)
    torch.testing.assert_close(other(lr), source(lr), atol=1e-5, rtol=0)


def test_a_wider_generator_takes_over_what_a_narrower_one_computes() -> None:
    source = lively(CompactConfig(scale=3, channels=8, blocks=2)).eval()
    wider = build_generator(CompactConfig(scale=3, channels=12, blocks=2))
    wider.load_fused(source.fused())
    lr = torch.rand(1, 3, 9, 8)
    torch.testing.assert_close(wider(lr), source(lr), atol=1e-6, rtol=0)
    wider(lr).square().sum().backward()
    assert wider.tail.weight.grad[:, 8:].abs().sum() > 0  # what is new can be learnt


def test_weights_of_another_scale_are_taken_over_but_for_the_tail() -> None:
    source = lively(CompactConfig(scale=4, channels=8, blocks=2))
    other = build_generator(CompactConfig(scale=2, channels=8, blocks=2))
    other.load_fused(source.fused())
    torch.testing.assert_close(other.body[1].kernel(), source.body[1].kernel())
    assert other.tail.weight.abs().sum() == 0


def test_an_untrained_compact_gives_the_bilinear_enlargement() -> None:
    lr = torch.rand(1, 3, 6, 7)
    sr = build_generator(CompactConfig(scale=3, channels=8, blocks=1))(lr)
    torch.testing.assert_close(sr, nn.functional.interpolate(lr, scale_factor=3, mode="bilinear"))


@pytest.mark.parametrize("config", SMALL, ids=str)
def test_nothing_beyond_the_halo_changes_the_picture(config: GeneratorConfig) -> None:
    generator = lively(config).eval().double()
    halo, scale = generator.halo, config.scale
    lr = torch.rand(1, 3, 1, 2 * halo + 3, dtype=torch.float64)
    changed = lr.clone()
    changed[..., 0] += 1
    difference = (generator(changed) - generator(lr)).abs().amax(dim=(0, 1, 2))
    assert difference[(halo + 1) * scale :].max() == 0


def test_sizes_that_cannot_be_are_refused() -> None:
    with pytest.raises(ConfigError, match="no scale 8; choose one of 2, 3, 4"):
        CompactConfig(scale=8)
    with pytest.raises(ConfigError, match="channels is 0"):
        JohnsonConfig(channels=0)
