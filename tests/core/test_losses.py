"""Losses: zero for equal images, known values, and gradients."""

import numpy as np
import pytest
import torch

from srcli.config import LOSS_TERMS, LossConfig, parse_layers, parse_loss
from srcli.core.losses import (
    CharbonnierLoss,
    ConsistencyLoss,
    FrequencyLoss,
    GridLoss,
    L1Loss,
    PeakLoss,
    PixelLoss,
    TextureLoss,
    TotalVariation,
    WeightedLoss,
)
from srcli.core.vgg import VGG16Features
from srcli.errors import ConfigError
from srcli.models.checkpoint import load_vgg_weights
from srcli.models.perceptual import FeatureLoss


@pytest.fixture(scope="module")
def feature() -> FeatureLoss:
    return FeatureLoss({"relu1_2": 0.5, "relu2_2": 2.0})


def test_equal_images_have_no_loss(feature: FeatureLoss) -> None:
    image = torch.rand(1, 3, 16, 16)
    loss = WeightedLoss(LossConfig(pixel=1, feature=1), feature, 4)(image, image)
    assert loss.total == 0
    assert set(loss.terms) == {"pixel", "feature"}


def test_the_pixel_loss_is_the_mean_squared_error() -> None:
    sr = torch.zeros(1, 3, 1, 2)
    hr = torch.tensor([0.0, 0.1, 0.2, 0.3, 0.4, 0.5]).view(1, 3, 1, 2)
    # (0 + 0.01 + 0.04 + 0.09 + 0.16 + 0.25) / 6
    assert PixelLoss()(sr, hr).item() == pytest.approx(0.55 / 6)


def test_the_other_terms_by_hand() -> None:
    sr, hr = torch.tensor([[0.0, 0.5], [1.0, 0.5]]).expand(1, 3, 2, 2), torch.zeros(1, 3, 2, 2)
    assert L1Loss()(sr, hr).item() == 0.5
    assert TotalVariation()(sr, hr).item() == 0.5 + 0.5  # down: 1 and 0; across: 0.5 and 0.5
    far, near = torch.full((1, 3, 2, 2), 0.5), torch.full((1, 3, 2, 2), 1e-5)
    assert CharbonnierLoss()(far, hr).item() == pytest.approx(0.5, abs=1e-3)
    assert CharbonnierLoss()(near, hr).item() == pytest.approx(1e-10 / 2e-3, rel=1e-2)
    assert CharbonnierLoss()(hr, hr) == 0


@pytest.mark.parametrize("term", [name for name in LOSS_TERMS if name != "adversarial"])
def test_every_term_has_a_finite_gradient_also_where_images_are_equal(term: str, feature: FeatureLoss) -> None:
    loss = WeightedLoss(LossConfig(**{"pixel": 0.0, term: 1.0}), feature, 2)
    for hr in (torch.rand(1, 3, 32, 32), torch.zeros(1, 3, 32, 32)):
        sr = hr.clone().requires_grad_(True)
        loss(sr, hr).total.backward()
        assert sr.grad is not None
        assert sr.grad.isfinite().all()


def test_the_absolute_distance_of_features() -> None:
    sr, hr = torch.rand(2, 1, 3, 16, 16).unbind()
    weights = load_vgg_weights()
    vgg = VGG16Features(["relu2_2"], weights)
    expected = (vgg(sr)["relu2_2"] - vgg(hr)["relu2_2"]).abs().mean() / weights.feature_scales["relu2_2"]
    torch.testing.assert_close(FeatureLoss("relu2_2", "absolute")(sr, hr), expected)


@torch.inference_mode()
def test_the_feature_loss_is_the_weighted_mean_squared_distance_in_units(feature: FeatureLoss) -> None:
    sr, hr = torch.rand(2, 1, 3, 16, 20).unbind()
    vgg = VGG16Features(["relu1_2", "relu2_2"], load_vgg_weights())
    units = load_vgg_weights().feature_scales
    expected = sum(
        weight * ((vgg(sr)[layer] - vgg(hr)[layer]) ** 2).mean() / units[layer] ** 2
        for layer, weight in (("relu1_2", 0.5), ("relu2_2", 2.0))
    )
    torch.testing.assert_close(feature(sr, hr), expected)


def test_the_total_is_the_weighted_sum_of_the_terms(feature: FeatureLoss) -> None:
    sr, hr = torch.rand(2, 1, 3, 16, 16).unbind()
    loss = WeightedLoss(LossConfig(pixel=2, feature=0.25), feature, 4)(sr, hr)
    torch.testing.assert_close(loss.total, 2 * loss.terms["pixel"] + 0.25 * loss.terms["feature"])


def test_a_term_without_weight_is_not_computed() -> None:
    loss = WeightedLoss(LossConfig(pixel=1, feature=0), None, 4)
    assert set(loss(torch.rand(1, 3, 4, 4), torch.rand(1, 3, 4, 4)).terms) == {"pixel"}


def test_the_gradient_reaches_the_image_and_no_weight_of_vgg(feature: FeatureLoss) -> None:
    sr = torch.rand(1, 3, 16, 16, requires_grad=True)
    hr = torch.rand(1, 3, 16, 16, requires_grad=True)
    feature(sr, hr).backward()
    assert sr.grad is not None
    assert sr.grad.abs().sum() > 0
    assert hr.grad is None  # the true image's features are no part of the graph
    assert all(weight.grad is None for weight in feature.parameters())


def test_the_texture_loss_equals_a_numpy_implementation(feature: FeatureLoss) -> None:
    sr, hr = torch.rand(2, 1, 3, 64, 48)
    texture = TextureLoss(feature.vgg, {"relu1_2": 0.0, "relu2_2": 1.0})
    strengths = []
    for image in (sr, hr):
        relu2_2 = feature.vgg(image)["relu2_2"][0].double().numpy() / feature.vgg.feature_scales["relu2_2"]  # 128 x 32 x 24
        corners = [(top, left) for top in (0, 8, 16) for left in (0, 8)]
        windows = [relu2_2[:, top : top + 16, left : left + 16] for top, left in corners]
        strengths.append(np.array([np.sqrt((window**2).mean(axis=(1, 2))) for window in windows]))
    expected = ((strengths[0] - strengths[1]) ** 2).mean()
    assert texture(sr, hr).item() == pytest.approx(expected, rel=1e-3)


def test_shifted_texture_is_close_and_missing_texture_is_far(feature: FeatureLoss) -> None:
    """For the feature loss, both are about equally far."""
    torch.manual_seed(0)
    hr = 0.5 + 0.2 * torch.randn(1, 3, 128, 128)
    elsewhere, smooth = hr.roll((5, 9), dims=(2, 3)), torch.full_like(hr, 0.5)
    texture = TextureLoss(feature.vgg, feature.layers)
    assert texture(elsewhere, hr) < texture(smooth, hr) / 20
    assert feature(elsewhere, hr) > 0.8 * feature(smooth, hr)


def test_sharing_features_does_not_change_the_terms(feature: FeatureLoss) -> None:
    sr, hr = torch.rand(2, 1, 3, 64, 64)
    both = WeightedLoss(LossConfig(pixel=0, feature=2, texture=3), feature, 4)(sr, hr)
    texture = TextureLoss(feature.vgg, feature.layers)
    torch.testing.assert_close(both.terms, {"feature": feature(sr, hr), "texture": texture(sr, hr)})
    torch.testing.assert_close(both.total, 2 * both.terms["feature"] + 3 * both.terms["texture"])


def test_the_grid_loss_responds_to_the_scales_period_and_hardly_to_other_texture() -> None:
    torch.manual_seed(0)
    hr = torch.rand(1, 3, 96, 96)
    pattern = torch.rand(3, 4, 4) - 0.5
    grid = hr + pattern.repeat(1, 24, 24)
    noise = hr + torch.rand(1, 3, 96, 96) - 0.5
    seen, unseen = GridLoss(4)(grid, hr), GridLoss(4)(noise, hr)
    torch.testing.assert_close(seen, pattern.square().mean())
    assert unseen < seen / 20
    assert GridLoss(4)(hr, hr) == 0


def test_losses_are_parsed() -> None:
    config = parse_loss("pixel=1,feature=0.1", "relu2_2=0.5,relu4_3")
    assert (config.pixel, config.feature, config.layers) == (1, 0.1, {"relu2_2": 0.5, "relu4_3": 1})
    assert parse_layers("johnson") == {"relu2_2": 1}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("pixle=1", "no loss 'pixle'. Did you mean pixel"),
        ("pixel", "write pixel=1"),
        ("pixel=much", "'much', not a number"),
        ("pixel=-1", "at least 0"),
        ("pixel=nan", "at least 0"),
        ("pixel=0", "All weights of the loss are 0"),
        ("pixel=1,pixel=2", "appears twice"),
    ],
)
def test_invalid_losses_are_rejected(words: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        parse_loss(words)


def test_an_unknown_layer_is_rejected_with_a_suggestion() -> None:
    with pytest.raises(ConfigError, match=r"no layer 'relu4_4'. Did you mean relu4_"):
        parse_layers("relu4_4")


def test_the_frequency_loss_equals_numpys_transform_and_has_the_magnitude_of_l1() -> None:
    torch.manual_seed(0)
    sr, hr = torch.rand(2, 3, 24, 32), torch.rand(2, 3, 24, 32)
    transform = np.fft.rfft2((sr - hr).numpy().astype(np.float64), norm="ortho")
    expected = np.abs([transform.real, transform.imag]).mean()
    assert FrequencyLoss()(sr, hr).item() == pytest.approx(expected, rel=1e-5)
    assert 0.5 < FrequencyLoss()(sr, hr) / L1Loss()(sr, hr) < 2


def shuffled(strength: float, *, side: int = 128) -> torch.Tensor:
    """A smooth image of random shades with a weave of period 4 of this strength."""
    random = torch.Generator().manual_seed(0)
    smooth = torch.nn.functional.interpolate(torch.rand(2, 3, 16, 16, generator=random), size=(side, side), mode="bicubic")
    noise = 0.02 * torch.randn(2, 3, side, side, generator=random)
    weave = torch.cos(torch.arange(side) * torch.pi / 2)
    return smooth + noise + strength * weave[None, None, None] * weave[:, None]


def test_the_peak_loss_measures_a_weave() -> None:
    loss = PeakLoss(4)
    none, weak, strong = (loss(shuffled(strength), shuffled(0)).item() for strength in (0, 0.01, 0.04))
    assert none == 0  # whatever peaks the true image has
    assert 0 < weak / 4 < strong / 8
    blurred = torch.nn.functional.avg_pool2d(shuffled(0), 3, 1, 1)
    assert loss(blurred, shuffled(0)).item() < weak / 4  # smoothness is no weave


def test_the_consistency_loss_ignores_what_downscaling_removes() -> None:
    loss = ConsistencyLoss(4)
    hr = shuffled(0)
    checkers = 0.05 * (-1) ** (torch.arange(128)[:, None] + torch.arange(128))
    assert loss(hr + checkers, hr).item() < 1e-3
    assert loss(hr + 0.1, hr).item() == pytest.approx(0.1, rel=1e-4)
