"""LPIPS and DISTS, computed by torchmetrics."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from typing import Any

import torch
from torch import Tensor

from srcli.errors import ConfigError, SrcliError, did_you_mean
from srcli.evaluation.formatting import LEARNED

MAX_PIXELS = 16_000_000
"""Their networks see the whole image, so memory grows with it: about 6 GB for so many pixels."""

MIN_SIDE = {"lpips": 31}
"""Smaller images vanish in the pooling of AlexNet."""

Metric = Callable[[Tensor, Tensor], float]


def load_learned(names: Sequence[str], device: torch.device) -> dict[str, Metric]:
    """Functions of (candidate, reference), 1 x 3 x H x W, RGB in [0, 1].

    Raises ConfigError for an unknown name, and SrcliError if torchmetrics or the weights are missing. torchvision downloads the
    weights of the networks below these metrics once.
    """
    for name in names:
        if name not in LEARNED:
            raise ConfigError(f"There is no metric {name!r}. {did_you_mean(name, LEARNED)}")
    return {name: _load(name, device) for name in names}


def _load(name: str, device: torch.device) -> Metric:
    try:
        from torchmetrics.image import dists, lpip  # noqa: F401
    except (ImportError, RuntimeError) as error:  # RuntimeError: a torchvision that does not match torch
        raise SrcliError(
            f"{name} needs torchmetrics and a torchvision that matches torch ({error}). "
            "Install them: pip install 'srcli[metrics]'"
        ) from None
    try:
        with warnings.catch_warnings(), redirect_stdout(sys.stderr):  # torch.hub prints to stdout what it downloads
            warnings.simplefilter("ignore")  # torchmetrics' advice for other uses
            module = _module(name).to(device).eval()
    except (OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SrcliError(
            f"The weights of {name} could not be downloaded ({reason}). Connect to the internet once; torchvision keeps them "
            f"in {torch.hub.get_dir()}."
        ) from None

    @torch.inference_mode()
    def metric(candidate: Tensor, reference: Tensor) -> float:
        if candidate.shape[-2] * candidate.shape[-1] > MAX_PIXELS:
            raise SrcliError(
                f"{name} supports images of up to {MAX_PIXELS / 1e6:g} megapixels, and this one has "
                f"{candidate.shape[-1]}x{candidate.shape[-2]} pixels. Leave out {name}."
            )
        if min(candidate.shape[-2:]) < MIN_SIDE.get(name, 1):
            raise SrcliError(
                f"{name} needs images of at least {MIN_SIDE[name]}x{MIN_SIDE[name]} pixels, and this one has "
                f"{candidate.shape[-1]}x{candidate.shape[-2]}. Leave out {name}."
            )
        return float(module(candidate.to(device), reference.to(device)))

    return metric


def _module(name: str) -> Any:
    if name == "lpips":
        from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

        return LearnedPerceptualImagePatchSimilarity(net_type="alex", normalize=True)
    from torchmetrics.functional.image.dists import DISTSNetwork  # torchmetrics' metric builds and loads it for every image

    return DISTSNetwork()
