"""Degradation: computes LR images from HR images.

`hr` is N x 3 x sH x sW and `lr` is N x 3 x H x W, RGB in [0, 1], rounded to 256 levels like 8-bit files. Random numbers are
drawn from a seed for each image separately, so that they do not depend on the rest of a batch.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from srcli.config import Degradation

JOHNSON_SIGMA = 1.0
"""Sigma of the blur before downscaling, in HR pixels (Johnson et al. 2016, sec. 4.2)."""


def margin(degradation: Degradation, scale: int) -> int:
    """The LR pixels at each side of a downscaled image that depend on its border, and are cropped in training.

    Two are half the width of the bicubic kernel; the rest is the radius of the blur. `photo` adds a JPEG block, so that blocks
    may have any offset in the remaining image.
    """
    match degradation:
        case "bicubic":
            return 2
        case "johnson":
            return 2 + math.ceil(_radius(JOHNSON_SIGMA) / scale)
        case "photo":
            return 4 + _radius(PHOTO_BLUR) + BLOCK


def degrade(degradation: Degradation, hr: Tensor, scale: int, *, seed: tuple[int, ...] = (0,), first: int = 0) -> Tensor:
    """Degrade and downscale hr by `scale`.

    seed, first: for `photo`. The order of its steps and its resizers depend on the seed alone; the strengths depend on the seed
    and the number of the image in the batch, counted from `first`.
    """
    match degradation:
        case "bicubic":
            return bicubic(hr, scale)
        case "johnson":
            sigma = hr.new_full((len(hr), 2), JOHNSON_SIGMA)
            return bicubic(blur(hr, sigma, hr.new_zeros(len(hr)), _radius(JOHNSON_SIGMA)), scale)
        case "photo":
            each = [np.random.default_rng([*seed, first + number]) for number in range(len(hr))]
            return photo(hr, scale, np.random.default_rng(seed), each)


def degraded_pair(
    degradation: Degradation, hr: Tensor, scale: int, *, seed: tuple[int, ...] = (0,), first: int = 0
) -> tuple[Tensor, Tensor]:
    """(lr, hr) of `degrade`, both without the margin that depends on the border."""
    size = margin(degradation, scale)
    inner, outer = slice(size, -size), slice(size * scale, -size * scale)
    lr = degrade(degradation, hr, scale, seed=seed, first=first)
    return lr[..., inner, inner], hr[..., outer, outer]


def degraded_small(
    degradation: Degradation, small: Tensor, scale: int, *, seed: tuple[int, ...] = (0,), first: int = 0
) -> Tensor:
    """LR images that are clean, degraded as `degrade` does it while it downscales, and without the margin."""
    if degradation == "johnson":
        sigma = JOHNSON_SIGMA / scale
        lr = rounded(blur(small, small.new_full((len(small), 2), sigma), small.new_zeros(len(small)), _radius(sigma)))
    else:
        lr = degrade(degradation, small, 1, seed=seed, first=first)
    inner = slice(margin(degradation, scale), -margin(degradation, scale))
    return lr[..., inner, inner]


def bicubic(hr: Tensor, scale: int) -> Tensor:
    """`downscale`, rounded to 256 levels and clamped to [0, 1]."""
    return rounded(downscale(hr, scale))


def downscale(hr: Tensor, scale: int) -> Tensor:
    """Downscale with the antialiased bicubic kernel, a = -0.5. Differentiable.

    The kernel is the same as in Pillow's BICUBIC and MATLAB's imresize, which the standard benchmarks use.
    """
    height, width = hr.shape[-2:]
    lower = torch.cat([part @ hr[..., rows, :] for part, rows in _bands(height, scale, hr.device)], dim=-2)
    return lower @ _downscaling(width, scale, hr.device).T


@lru_cache(maxsize=64)
def _downscaling(side: int, scale: int, device: torch.device) -> Tensor:
    """The kernel as a matrix, side // scale x side. Multiplying by it is faster than F.interpolate."""
    unit = torch.eye(side)[None, None]
    return F.interpolate(unit, size=(side // scale, side), mode="bicubic", antialias=True)[0, 0].to(device)


@lru_cache(maxsize=64)
def _bands(side: int, scale: int, device: torch.device) -> list[tuple[Tensor, slice]]:
    """The matrix of `_downscaling` in parts of 16 rows, each with its nonzero columns only."""
    bands = []
    for rows in torch.split(_downscaling(side, scale, device), 16):
        used = rows.any(dim=0).nonzero().flatten().tolist()
        columns = slice(used[0], used[-1] + 1)
        bands.append((rows[:, columns].contiguous(), columns))
    return bands


def rounded(image: Tensor) -> Tensor:
    """Clamped to [0, 1] and rounded to 256 levels."""
    return (image * 255).round().clamp(0, 255) / 255


PHOTO_SHARE = 0.6
"""Share of images that `photo` degrades. The others are only downscaled, so that the model keeps sharp images sharp."""

PHOTO_BLUR = 0.8
"""Maximum sigma of the blur of `photo`, in LR pixels."""

PHOTO_NOISE = 12 / 255
"""Maximum standard deviation of the noise of `photo`, at mid-gray."""

PHOTO_QUALITY = (30.0, 97.0)
"""Range of the quality of `photo` for JPEG, WebP and AVIF."""

PHOTO_CODECS = {"JPEG": 0.8, "WEBP": 0.13, "AVIF": 0.07}
"""Shares of the formats in which `photo` saves images."""


def photo(hr: Tensor, scale: int, shared: np.random.Generator, each: Sequence[np.random.Generator]) -> Tensor:
    """The degradation of small images from cameras, phones and the web, at random strengths.

    Blur (lens and motion as a Gaussian, defocus as a disc), downscaling in one or two steps by various resizers with a JPEG in
    between, sensor noise, fine or in coarse grains, and JPEG with or without chroma subsampling, WebP or AVIF.
    After BSRGAN (Zhang et al. 2021) and Real-ESRGAN (Wang et al. 2021), but milder: noise and quality in the range of images
    that people keep, no sinc ringing, and two fifths of the images not degraded at all.

    shared: random numbers for all images. each: random numbers for each image.
    """
    lr = bicubic(hr, scale)
    degraded = [number for number, random in enumerate(each) if random.random() < PHOTO_SHARE]
    if degraded:
        lr[degraded] = _degraded(hr[degraded], scale, shared, [each[number] for number in degraded])
    return lr


def _degraded(hr: Tensor, scale: int, shared: np.random.Generator, each: Sequence[np.random.Generator]) -> Tensor:
    height, width = (side // scale for side in hr.shape[-2:])

    def uniform(low: float, high: float) -> Tensor:
        return torch.tensor([random.uniform(low, high) for random in each], dtype=hr.dtype, device=hr.device)

    def chance(probability: float) -> Tensor:
        return uniform(0, 1) < probability

    blurred, sigma, angle = chance(0.5), torch.stack([uniform(0, 1), uniform(0, 1)], dim=1) ** 2, uniform(0, math.pi)
    defocused = chance(0.3)
    noisy, noise, gray = chance(0.6), uniform(0, 1) ** 2 * PHOTO_NOISE, chance(0.4).to(hr.dtype)
    grain = torch.where(chance(0.25), uniform(1.5, 3), 1)
    saved_between, first_quality = chance(0.4), uniform(60, PHOTO_QUALITY[1])
    saved, quality, subsampled = chance(0.85), uniform(*PHOTO_QUALITY), chance(0.75)
    codecs = [str(random.choice([*PHOTO_CODECS], p=[*PHOTO_CODECS.values()])) for random in each]
    two_steps, noise_first = shared.random() < 0.5, shared.random() < 0.3
    between = shared.uniform(1, scale)
    one, other = (RESIZERS[i] for i in shared.integers(len(RESIZERS), size=2))

    def with_noise(image: Tensor, times: float) -> Tensor:
        return _some(
            image,
            noisy,
            lambda part, i: sensor_noise(part, times * noise[i], gray[i], [each[n] for n in i.tolist()], grain=grain[i]),
        )

    def with_blur(image: Tensor, i: Tensor) -> Tensor:
        return blur(image, sigma[i] * PHOTO_BLUR * scale, angle[i], _radius(PHOTO_BLUR * scale), disc=defocused[i])

    def in_file(image: Tensor, i: Tensor) -> Tensor:
        jpegs = torch.tensor([codecs[number] == "JPEG" for number in i.tolist()], device=image.device)
        image = _some(image, jpegs, lambda part, j: jpeg(part, quality[i[j]], subsampled[i[j]]))
        return _some(
            image,
            ~jpegs,
            lambda part, j: encoded(part, [codecs[n] for n in i[j].tolist()], quality[i[j]].round().int().tolist()),
        )

    image = _some(hr, blurred, with_blur)
    if noise_first:
        image = with_noise(image, 2)
    if two_steps:  # an earlier downscaling, as by a camera or a web site, saved in between
        image = one(image, round(height * between), round(width * between))
        image = _some(image, saved_between, lambda part, i: jpeg(part, first_quality[i]))
    image = other(image, height, width)
    if not noise_first:
        image = with_noise(image, 1)
    return rounded(_some(image, saved, in_file))


def _some(images: Tensor, chosen: Tensor, change: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Apply `change` to the chosen images. It is called with these images and their numbers."""
    numbers = chosen.nonzero().flatten()
    return images.index_copy(0, numbers, change(images[numbers], numbers)) if len(numbers) else images


def _resizer(**options: Any) -> Callable[[Tensor, int, int], Tensor]:
    def resize(image: Tensor, height: int, width: int) -> Tensor:
        return F.interpolate(image, size=(height, width), **options)

    return resize


RESIZERS = (
    _resizer(mode="bicubic", antialias=True),
    _resizer(mode="bilinear", antialias=True),
    _resizer(mode="area"),
    _resizer(mode="bicubic", antialias=False),  # without antialiasing, like fast resizers on phones
)


def _radius(sigma: float) -> int:
    return math.ceil(3 * sigma)


def blur(image: Tensor, sigma: Tensor, angle: Tensor, radius: int, *, disc: Tensor | None = None) -> Tensor:
    """Gaussian blur of N x C x H x W, with one kernel per image.

    sigma: N x 2, along and across the axis at `angle` (N, radians), in pixels; 0 does not blur. radius: of the window. Beyond
    the border the image is reflected, or replicated if it is smaller than the window.
    disc: N, where true the kernel is an ellipse of uniform brightness with the same sigma instead, as in an image out of focus.
    """
    height, width = image.shape[-2:]
    offsets = torch.arange(-radius, radius + 1, device=image.device, dtype=image.dtype)
    y, x = offsets.view(1, -1, 1), offsets.view(1, 1, -1)
    cos, sin = angle.cos().view(-1, 1, 1), angle.sin().view(-1, 1, 1)
    along, across = x * cos + y * sin, y * cos - x * sin
    width_of = sigma.clamp(min=0.05)  # such a narrow kernel has only its center
    distance = (along / width_of[:, 0].view(-1, 1, 1)) ** 2 + (
        across / width_of[:, 1].view(-1, 1, 1)
    ) ** 2  # in sigmas, squared
    kernel = torch.exp(-distance / 2)
    if disc is not None:
        # a disc of radius 2 has a standard deviation of 1; its edge falls over about a pixel
        inside = torch.sigmoid((2 - distance.sqrt()) * 4 * width_of.mean(dim=1).view(-1, 1, 1))
        kernel = torch.where(disc.view(-1, 1, 1), inside, kernel)
    kernel = kernel / kernel.sum(dim=(1, 2), keepdim=True)
    mode = "reflect" if radius < min(height, width) else "replicate"
    padded = F.pad(image, (radius,) * 4, mode=mode)
    size = [_fft_length(side) for side in padded.shape[-2:]]
    # by Fourier transform: a convolution with a large kernel per image takes ten times as long
    product = torch.fft.rfft2(padded, s=size) * torch.fft.rfft2(kernel, s=size)[:, None]
    blurred: Tensor = torch.fft.irfft2(product, s=size)
    return blurred[..., 2 * radius : 2 * radius + height, 2 * radius : 2 * radius + width]


def _fft_length(side: int) -> int:
    """The next length with no prime factors other than 2, 3 and 5, which is up to three times as fast to transform."""
    rest = side
    for factor in (2, 3, 5):
        while rest % factor == 0:
            rest //= factor
    return side if rest == 1 else _fft_length(side + 1)


def sensor_noise(
    image: Tensor,
    strength: Tensor,
    gray: Tensor,
    each: Sequence[np.random.Generator],
    *,
    grain: Tensor | None = None,
) -> Tensor:
    """Shot noise, which grows with the square root of brightness, plus read noise.

    strength: N, standard deviation at mid-gray. gray: N, 1 if all channels have the same noise. each: random numbers per image.
    grain: N, size of the grains in pixels, larger than 1 after a camera's noise reduction or an enlargement.
    """
    normal = np.stack([random.standard_normal(image.shape[1:], dtype=np.float32) for random in each])
    draws = torch.from_numpy(normal).to(image.device)
    if grain is not None:
        draws = _some(
            draws, grain > 1, lambda part, i: torch.cat([_coarse(part[n : n + 1], grain[i[n]]) for n in range(len(i))])
        )
    shared = gray.view(-1, 1, 1, 1)
    draws = shared * draws[:, :1] + (1 - shared) * draws
    return image + draws * strength.view(-1, 1, 1, 1) * (0.1 + 1.8 * image.clamp(0, 1)).sqrt()


def _coarse(draws: Tensor, grain: Tensor) -> Tensor:
    """White noise with grains of that size and the same standard deviation."""
    height, width = draws.shape[-2:]
    few = draws[..., : math.ceil(height / float(grain)), : math.ceil(width / float(grain))]
    coarse = F.interpolate(few, size=(height, width), mode="bicubic")
    return coarse / coarse.std().clamp(min=1e-3)


def encoded(image: Tensor, formats: Sequence[str], quality: Sequence[int]) -> Tensor:
    """N x 3 x H x W after Pillow has written and read each image as WEBP or AVIF."""
    levels = rounded(image).mul(255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    results = []
    for pixels, kind, value in zip(levels, formats, quality, strict=True):
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, kind, quality=value, **({"speed": 9} if kind == "AVIF" else {"method": 2}))
        with Image.open(file) as decoded:
            results.append(torch.from_numpy(np.array(decoded.convert("RGB"))).permute(2, 0, 1))
    return torch.stack(results).to(image) / 255


BLOCK = 8

_LUMA_TABLE = """
    16 11 10 16 24 40 51 61  12 12 14 19 26 58 60 55  14 13 16 24 40 57 69 56  14 17 22 29 51 87 80 62
    18 22 37 56 68 109 103 77  24 35 55 64 81 104 113 92  49 64 78 87 103 121 120 101  72 92 95 98 112 100 103 99
"""
_CHROMA_TABLE = (
    """
    17 18 24 47 99 99 99 99  18 21 26 66 99 99 99 99  24 26 56 99 99 99 99 99  47 66 99 99 99 99 99 99
"""
    + 32 * " 99"
)
_TO_YCC = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))


@lru_cache
def _jpeg_constants(device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    k = torch.arange(BLOCK, dtype=torch.float64)
    transform = torch.cos((2 * k[None] + 1) * k[:, None] * math.pi / (2 * BLOCK)) / 2
    transform[0] /= math.sqrt(2)
    tables = torch.tensor([[float(n) for n in table.split()] for table in (_LUMA_TABLE, _CHROMA_TABLE)])
    to_ycc = torch.tensor(_TO_YCC, dtype=torch.float32)
    return transform.float().to(device), tables.view(2, BLOCK, BLOCK).to(device), to_ycc.to(device)


def jpeg(image: Tensor, quality: Tensor, subsampled: Tensor | None = None) -> Tensor:
    """The result of baseline JPEG compression (ITU-T T.81, tables of annex K): N x 3 x H x W in [0, 1].

    quality: N, 1 to 100 as in libjpeg, not rounded. subsampled: N, whether chroma has half the resolution (4:2:0), which is the
    default. Unlike libjpeg, chroma is resampled without a smoothing filter.
    """
    transform, tables, to_ycc = _jpeg_constants(image.device)
    height, width = image.shape[-2:]
    padded = F.pad(rounded(image), (0, -width % (2 * BLOCK), 0, -height % (2 * BLOCK)), mode="replicate") * 255
    ycc = torch.einsum("oc,nchw->nohw", to_ycc, padded)  # luma 0..255, chroma -127.5..127.5
    percent = torch.where(quality < 50, 5000 / quality, 200 - 2 * quality).view(-1, 1, 1, 1)
    steps = ((tables * percent + 50) / 100).floor().clamp(1, 255)  # N x 2 x 8 x 8
    luma = _quantized(ycc[:, :1] - 128, steps[:, :1], transform) + 128
    chroma = F.interpolate(_quantized(F.avg_pool2d(ycc[:, 1:], 2), steps[:, 1:], transform), scale_factor=2)
    if subsampled is not None:
        chroma = _some(chroma, ~subsampled, lambda _, i: _quantized(ycc[i, 1:], steps[i, 1:], transform))
    rgb = torch.einsum("oc,nchw->nohw", torch.linalg.inv(to_ycc), torch.cat([luma, chroma], dim=1))
    return (rgb / 255).clamp(0, 1)[..., :height, :width]


def _quantized(planes: Tensor, steps: Tensor, transform: Tensor) -> Tensor:
    """N x C x H x W with the cosine transform of its 8x8 blocks rounded to multiples of `steps`, N x 1 x 8 x 8."""
    count, channels, height, width = planes.shape
    blocks = planes.view(count, channels, height // BLOCK, BLOCK, width // BLOCK, BLOCK).transpose(3, 4)
    steps = steps[:, :, None, None]
    frequencies = ((transform @ blocks @ transform.T) / steps).round() * steps
    return (transform.T @ frequencies @ transform).transpose(3, 4).reshape(planes.shape)
