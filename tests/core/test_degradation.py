"""Degradation, compared with Pillow, SciPy and libjpeg."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter
from torch import Tensor

from srcli.core.degradation import bicubic, blur, degrade, encoded, jpeg, margin, sensor_noise
from tests.conftest import EXAMPLES


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    with Image.open(EXAMPLES / "photos" / "chelsea.png") as file:
        return file.convert("RGB").crop((0, 0, 432, 288))


def tensor(photo: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(photo)).permute(2, 0, 1)[None].float() / 255


def levels(image: Tensor) -> np.ndarray:
    result: np.ndarray = (image[0].permute(1, 2, 0) * 255).round().numpy()
    return result


@pytest.mark.parametrize("scale", [2, 3, 4, 8])
def test_bicubic_downscaling_equals_pillows(photo: Image.Image, scale: int) -> None:
    small = photo.resize((432 // scale, 288 // scale), Image.Resampling.BICUBIC)
    difference = np.abs(levels(bicubic(tensor(photo), scale)) - np.array(small).astype(float))
    assert difference.max() <= 1  # Pillow rounds between its two passes
    assert difference.mean() < 0.2


@pytest.mark.parametrize("scale", [2, 4])
def test_johnson_degradation_is_blur_with_sigma_1_and_bicubic_downscaling(photo: Image.Image, scale: int) -> None:
    hr = tensor(photo)
    blurred = np.stack([gaussian_filter(plane.numpy(), 1.0, mode="mirror", radius=3) for plane in hr[0]])
    expected = bicubic(torch.from_numpy(blurred)[None], scale)
    assert (degrade("johnson", hr, scale) - expected).abs().max() <= 1.01 / 255


@pytest.mark.parametrize("degradation", ["bicubic", "johnson"])
@pytest.mark.parametrize("scale", [2, 3, 4, 8])
def test_pixels_inside_the_margin_do_not_depend_on_the_border(degradation: str, scale: int) -> None:
    hr = torch.rand(1, 3, 48 * scale, 48 * scale)
    whole = degrade(degradation, hr, scale)  # type: ignore[arg-type]
    part = degrade(degradation, hr[..., 8 * scale : 40 * scale, 8 * scale : 40 * scale], scale)  # type: ignore[arg-type]
    rim = margin(degradation, scale)  # type: ignore[arg-type]
    inner = slice(rim, -rim)
    torch.testing.assert_close(part[..., inner, inner], whole[..., 8:40, 8:40][..., inner, inner], atol=1.01 / 255, rtol=0)
    assert (part[..., inner, inner] != whole[..., 8:40, 8:40][..., inner, inner]).float().mean() < 1e-3


def test_blur_along_one_axis_does_not_affect_the_other() -> None:
    rows = torch.rand(1, 3, 30, 1).expand(1, 3, 30, 40)  # nothing changes along a row
    along, across = (blur(rows, torch.tensor([[2.0, 0.0]]), torch.tensor([angle]), 6) for angle in (0.0, torch.pi / 2))
    torch.testing.assert_close(along, rows, atol=1e-5, rtol=0)
    assert (across - rows).abs().mean() > 0.05


def test_blur_by_a_disc_has_the_given_sigma_and_a_flat_center() -> None:
    point = torch.zeros(1, 1, 61, 61)
    point[..., 30, 30] = 1
    for sigma in (2.0, 4.0):
        disc = blur(point, torch.tensor([[sigma, sigma]]), torch.zeros(1), 24, disc=torch.tensor([True]))[0, 0]
        offsets = torch.arange(61.0) - 30
        assert (disc.sum(dim=0) * offsets**2).sum().sqrt().item() == pytest.approx(sigma, rel=0.08)
        inner = disc[30, 30 - int(sigma) : 31 + int(sigma)]  # to half of the radius
        torch.testing.assert_close(inner, inner.mean().expand_as(inner), rtol=0.05, atol=0)


def test_grains_are_as_strong_as_fine_noise_and_smoother() -> None:
    image = torch.full((2, 3, 96, 96), 0.5)
    each = [np.random.default_rng(number) for number in range(2)]
    noise = sensor_noise(image, torch.full((2,), 0.05), torch.zeros(2), each, grain=torch.tensor([1.0, 2.5])) - image
    fine, coarse = noise.std(dim=(1, 2, 3)).tolist()
    assert coarse == pytest.approx(fine, rel=0.05)
    steps = (noise[..., 1:] - noise[..., :-1]).std(dim=(1, 2, 3))
    assert steps[1] < 0.6 * steps[0]


@pytest.mark.parametrize("kind", ["WEBP", "AVIF"])
def test_codecs_lose_more_at_low_quality(photo: Image.Image, kind: str) -> None:
    image = tensor(photo)[..., :96, :96].repeat(2, 1, 1, 1)
    low, high = (encoded(image, [kind, kind], [30, 95]) - image).square().mean(dim=(1, 2, 3))
    assert 0 < high < low / 4 < 0.01


@pytest.mark.parametrize("subsampling", [0, 2])
@pytest.mark.parametrize("quality", [10, 30, 50, 75, 90, 95])
def test_jpeg_artifacts_match_libjpegs(photo: Image.Image, quality: int, subsampling: int) -> None:
    """The error equals that of libjpeg within 0.3 dB, and the results are similar."""
    file = io.BytesIO()
    photo.save(file, "JPEG", quality=quality, subsampling=subsampling)
    theirs = np.array(Image.open(file)).astype(float)
    ours = levels(jpeg(tensor(photo), torch.tensor([float(quality)]), torch.tensor([subsampling > 0])))
    true = np.array(photo).astype(float)

    def db(one: np.ndarray, other: np.ndarray) -> float:
        return float(10 * np.log10(255**2 / np.square(one - other).mean()))

    assert db(ours, true) == pytest.approx(db(theirs, true), abs=0.3)
    assert db(ours, theirs) > 40


def test_noise_has_the_requested_strength_and_grows_with_brightness() -> None:
    def spread(level: float, gray: float) -> Tensor:
        image = torch.full((1, 3, 200, 200), level)
        noisy = sensor_noise(image, torch.tensor([0.05]), torch.tensor([gray]), [np.random.default_rng(0)])
        return noisy - image

    assert spread(0.5, 0).std().item() == pytest.approx(0.05, rel=0.02)
    assert spread(0.9, 0).std() > 1.2 * spread(0.5, 0).std() > 1.4 * spread(0.1, 0).std()
    shared, own = spread(0.5, 1), spread(0.5, 0)
    torch.testing.assert_close(shared[:, 0], shared[:, 1])
    assert (own[:, 0] - own[:, 1]).abs().mean() > 0.01


def photo_of(hr: Tensor, seed: int, first: int = 0) -> Tensor:
    return degrade("photo", hr, 2, seed=(seed,), first=first)


def test_photo_depends_on_the_seed_and_the_images_number_only(photo: Image.Image) -> None:
    hr = tensor(photo)[..., :96, :96].repeat(6, 1, 1, 1)
    whole = photo_of(hr, 1)
    torch.testing.assert_close(torch.cat([photo_of(hr[:3], 1), photo_of(hr[3:], 1, first=3)]), whole, atol=1.01 / 255, rtol=0)
    assert (photo_of(hr, 2) != whole).any()
    assert len({image.sum().item() for image in whole}) > 3


def test_photo_degrades_most_images_and_leaves_some(photo: Image.Image) -> None:
    hr = tensor(photo)[..., :96, :96].repeat(16, 1, 1, 1)
    error = torch.cat([(photo_of(hr, seed) - bicubic(hr, 2)).abs().mean(dim=(1, 2, 3)) for seed in range(4)])
    assert 0.2 < (error == 0).float().mean() < 0.5
    assert error.max() > 0.02
    degraded = photo_of(hr, 0)
    assert degraded.min() >= 0
    assert degraded.max() <= 1
    torch.testing.assert_close(degraded * 255, (degraded * 255).round(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", ["bicubic", "johnson", "photo"])
def test_no_degradation_shifts_or_tints(photo: Image.Image, kind: str) -> None:
    hr = tensor(photo)[..., :96, :96].repeat(16, 1, 1, 1)
    lr = degrade(kind, hr, 2, seed=(3,))  # type: ignore[arg-type]
    torch.testing.assert_close(lr.mean(dim=(0, 2, 3)), hr.mean(dim=(0, 2, 3)), atol=0.01, rtol=0)
    small = bicubic(hr, 2)[:, :, 4:-4, 4:-4]
    errors = {
        (y, x): (lr.roll((y, x), (2, 3))[:, :, 4:-4, 4:-4] - small).square().mean() for y in (-1, 0, 1) for x in (-1, 0, 1)
    }
    assert min(errors, key=lambda shift: errors[shift].item()) == (0, 0)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["bicubic", "johnson", "photo"])
def test_a_gpu_degrades_like_the_cpu(photo: Image.Image, kind: str) -> None:
    hr = tensor(photo)[..., :96, :96].repeat(8, 1, 1, 1)
    here, there = (degrade(kind, each, 2, seed=(5,)).cpu() for each in (hr, hr.cuda()))  # type: ignore[arg-type]
    assert (here - there).abs().mean() < 0.2 / 255  # a sum in another order may round to the next level
