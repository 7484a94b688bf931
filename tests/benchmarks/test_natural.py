"""The measures of grids and weaves that benchmarks/quality.py prints."""

import torch
from natural import grid, spectral_peak


def test_a_grid_on_flat_areas_is_detected_and_equal_images_have_none() -> None:
    torch.manual_seed(0)
    hr = 0.4 + 0.02 * torch.rand(1, 3, 240, 240)
    hr[..., :120, :] += 0.5 * torch.rand(1, 3, 120, 240)
    gridded = hr.clone()
    gridded[..., ::4, ::4] += 0.03
    assert grid([(hr, hr)], 4) == {"grid_flat": 1, "grid_textured": 1}
    seen = grid([(gridded, hr)], 4)
    assert seen["grid_flat"] > 3
    assert 1 < seen["grid_textured"] < 1.5
    smooth = torch.nn.functional.avg_pool2d(hr, 5, 1, 2)
    assert grid([(smooth, hr)], 4)["grid_flat"] < 0.5


def test_a_weave_has_a_spectral_peak_and_noise_has_none() -> None:
    torch.manual_seed(0)
    image = 0.5 + 0.05 * torch.randn(1, 3, 240, 320)
    weave = torch.cos(torch.arange(320) * torch.pi / 2) * torch.cos(torch.arange(240)[:, None] * torch.pi / 2)
    assert 0.7 < spectral_peak(image, 4) < 1.4
    assert spectral_peak(image + 0.02 * weave, 4) > 2
    assert spectral_peak(torch.nn.functional.avg_pool2d(image, 3, 1, 1), 4) < 1.5
