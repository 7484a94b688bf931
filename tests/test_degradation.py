"""The reduction, beside Pillow's."""

import numpy as np
import pytest
import torch
from PIL import Image

from srcli.core.degradation import MARGIN, bicubic
from tests.conftest import EXAMPLES


@pytest.mark.parametrize("scale", [2, 3, 4, 8])
def test_the_bicubic_reduction_is_pillows(scale: int) -> None:
    with Image.open(EXAMPLES / "photos" / "chelsea.png") as file:
        photo = file.convert("RGB").crop((0, 0, 432, 288))
    small = photo.resize((432 // scale, 288 // scale), Image.Resampling.BICUBIC)
    hr = torch.from_numpy(np.array(photo)).permute(2, 0, 1)[None].float() / 255
    ours = (bicubic(hr, scale)[0].permute(1, 2, 0) * 255).round().numpy()
    difference = np.abs(ours - np.array(small).astype(float))
    assert difference.max() <= 1  # Pillow rounds between its two passes
    assert difference.mean() < 0.2


def test_the_margin_is_all_that_feels_the_border() -> None:
    hr = torch.rand(1, 3, 64, 64)
    whole = bicubic(hr, 4)
    part = bicubic(hr[..., 16:48, 16:48], 4)
    inner = slice(MARGIN, -MARGIN)
    torch.testing.assert_close(part[..., inner, inner], whole[..., 4:12, 4:12][..., inner, inner])
