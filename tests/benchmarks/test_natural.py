"""The measures of grids, weaves and ghosts that benchmarks/quality.py prints, and the pages that it draws."""

import numpy as np
import torch
from drawn import KINDS, TEST_SEED, drawn_page
from natural import ghost, grid, spectral_peak


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


def test_a_ghost_is_an_error_on_a_flat_area() -> None:
    hr = torch.ones(1, 3, 64, 64)
    hr[..., 30:] = 0.2
    near, far = hr.clone(), hr.clone()
    near[..., 28] -= 0.1  # at the edge itself
    far[..., 22] -= 0.1
    assert ghost(hr, hr, 4) == ghost(near, hr, 4) == 0
    assert abs(ghost(far, hr, 4) - 0.1 * 219) < 0.1


def test_drawn_pages_depend_on_seed_and_number_only_and_are_full_of_edges() -> None:
    for number in range(len(KINDS)):
        page, same, other = (np.array(drawn_page(seed, number, 256)) for seed in (TEST_SEED, TEST_SEED, 1))
        assert page.shape == (256, 256, 3)
        assert np.array_equal(page, same)
        assert not np.array_equal(page, other)
        assert np.abs(np.diff(page.astype(int), axis=1)).max() > 60
