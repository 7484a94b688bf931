"""Metrics, compared with scikit-image and with known values."""

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from srcli.core.metrics import luma, on_luma, psnr, ssim
from srcli.errors import SrcliError


def pair() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    hr = torch.rand(2, 3, 40, 33)
    return (hr + 0.1 * torch.randn_like(hr)).clamp(0, 1), hr


def test_psnr_equals_scikit_images() -> None:
    sr, hr = pair()
    expected = [peak_signal_noise_ratio(h.numpy(), s.numpy(), data_range=1) for s, h in zip(sr, hr, strict=True)]
    assert psnr(sr, hr).tolist() == pytest.approx(expected, abs=1e-4)


def test_psnr_by_hand() -> None:
    hr = torch.zeros(1, 3, 4, 4)
    assert psnr(hr + 0.1, hr).item() == pytest.approx(20, abs=1e-5)
    assert psnr(hr, hr).item() == float("inf")
    assert psnr(hr + 1e-4, hr).item() == pytest.approx(80, abs=1e-5)  # no epsilon shifts it


def test_ssim_equals_scikit_images() -> None:
    sr, hr = pair()
    expected = [
        structural_similarity(
            h.numpy(), s.numpy(), channel_axis=0, data_range=1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
        for s, h in zip(sr, hr, strict=True)
    ]
    assert ssim(sr, hr).tolist() == pytest.approx(expected, abs=1e-6)


def test_ssim_of_equal_images_is_one() -> None:
    _, hr = pair()
    assert ssim(hr, hr).tolist() == pytest.approx([1, 1])


def test_luma_spans_16_to_235() -> None:
    assert (luma(torch.zeros(1, 3, 1, 1)) * 255).item() == pytest.approx(16, abs=1e-4)
    assert (luma(torch.ones(1, 3, 1, 1)) * 255).item() == pytest.approx(235, abs=1e-4)
    green = torch.tensor([0.0, 1.0, 0.0]).view(1, 3, 1, 1)
    assert (luma(green) * 255).item() == pytest.approx(16 + 128.553, abs=1e-4)


def test_the_border_is_cropped() -> None:
    sr, hr = pair()
    hr = hr.clone()
    sr = hr.clone()
    sr[..., :4, :] = 0
    assert np.isfinite(psnr(*on_luma(sr, hr, border=3)).numpy()).all()
    assert np.isinf(psnr(*on_luma(sr, hr, border=4)).numpy()).all()
    with pytest.raises(SrcliError, match="33x40 pixels; nothing is left after cropping 17"):
        on_luma(sr, hr, border=17)


def test_an_image_smaller_than_the_window_has_no_ssim() -> None:
    with pytest.raises(SrcliError, match="needs at least 11x11"):
        ssim(torch.rand(1, 3, 10, 20), torch.rand(1, 3, 10, 20))
