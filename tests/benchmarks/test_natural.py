"""The grid measure that benchmarks/quality.py prints."""

import torch
from natural import grid


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
