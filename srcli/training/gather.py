"""Crops on a device in one indexing operation, whatever their number, place and augmentation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from srcli.training.dataset import PhotoDataset, Regions, TrainBatch

SHARE_OF_FREE_MEMORY = 0.4
"""Photographs are kept on a GPU if they take at most this share of its free memory. Training needs the rest."""


def gather(
    pixels: Tensor, starts: Tensor, widths: Tensor, tops: Tensor, lefts: Tensor, augmentations: Tensor, size: int
) -> Tensor:
    """Square crops of images, augmented: N x 3 x size x size uint8, channels last.

    pixels: of all images, M x 3 uint8. For each crop, N int64: the number of its image's first pixel, the width of that image,
    and the crop's first row and column. augmentations: N x 3 bool, whether to transpose, flip vertically and horizontally.
    """
    along = torch.arange(size, device=pixels.device)
    transposed, flipped, mirrored = (chosen[:, None] for chosen in augmentations.unbind(1))
    rows = torch.where(flipped, size - 1 - along, along)[:, :, None]
    columns = torch.where(mirrored, size - 1 - along, along)[:, None, :]
    transposed, tops, lefts = transposed[..., None], tops[:, None, None], lefts[:, None, None]
    down, across = torch.where(transposed, columns, rows), torch.where(transposed, rows, columns)
    places = starts[:, None, None] + (tops + down) * widths[:, None, None] + lefts + across
    return pixels[places].permute(0, 3, 1, 2)


def gather_batch(pixels: np.ndarray, augmentations: Tensor, device: torch.device) -> Tensor:
    """The crops of a batch in host memory, N x P x P x 3 uint8, on the device and augmented as by `gather`.

    augmentations: on the device.
    """
    count, size = pixels.shape[:2]
    starts = torch.arange(count, device=device) * size * size
    zeros = torch.zeros_like(starts)
    flat = on_device(torch.from_numpy(pixels), device).view(-1, 3)
    return gather(flat, starts, zeros + size, zeros, zeros, augmentations, size)


def on_device(values: Tensor, device: torch.device) -> Tensor:
    """A copy of values in host memory. Does not wait for the device."""
    return (values.pin_memory() if device.type == "cuda" else values).to(device, non_blocking=True)


@dataclass(frozen=True)
class _Images:
    """Where images are in the pixels: the number of the first pixel and the width of each, int64."""

    starts: Tensor
    widths: Tensor


class ResidentPhotos:
    """Photographs, their labels and whatever else belongs to them, in the memory of a device."""

    def __init__(self, photos: PhotoDataset, device: torch.device) -> None:
        self.photos, self.device = photos, device
        collections = _collections(photos)
        total = sum(image.size // 3 for images in collections.values() for image in images)
        self.pixels = torch.empty((total, 3), dtype=torch.uint8, device=device)
        self.images: dict[str, _Images] = {}
        place = 0
        for name, images in collections.items():
            starts = []
            for image in images:
                starts.append(place)
                flat = torch.from_numpy(np.array(image).reshape(-1, 3))
                self.pixels[place : place + len(flat)] = flat.to(device)
                place += len(flat)
            widths = [image.shape[1] for image in images]
            self.images[name] = _Images(*(torch.tensor(numbers, device=device) for numbers in (starts, widths)))

    def crops(self, regions: Regions) -> dict[str, Tensor]:
        """What `PhotoDataset.batch` cuts out for the same regions, by the names of `TrainBatch`: N x 3 x P x P, augmented."""
        numbers, tops, lefts, *flags = self._on_device(regions)
        augmentations = torch.stack(flags[:3], dim=1).bool()
        alone = flags[3].bool()

        def cut(names: tuple[str, str], scale: int) -> Tensor:
            one, other = (self.images[name] for name in names)
            starts, widths = one.starts[numbers], one.widths[numbers]
            if one is not other:
                starts = torch.where(alone, other.starts[numbers], starts)
                widths = torch.where(alone, other.widths[numbers], widths)
            size = regions.patch // scale
            return gather(self.pixels, starts, widths, tops // scale, lefts // scale, augmentations, size)

        photographs = {"hr": ("images", "unlabeled labels"), "labels": ("labels", "unlabeled labels"), "lr": ("lr", "lr")}
        scales = {"hr": 1, "labels": 1, "lr": self.photos.scale}
        crops = {
            role: cut((one, other if other in self.images else one), scales[role])
            for role, (one, other) in photographs.items()
            if one in self.images
        }
        if "unlabeled images" in self.images:
            # the other crops have no such input: they get the first pixels, which are not used
            small, scale = self.images["unlabeled images"], self.photos.scale
            rows, columns = (corner * alone // scale for corner in (tops, lefts))
            starts, widths = small.starts[numbers], small.widths[numbers]
            crops["small"] = gather(self.pixels, starts, widths, rows, columns, augmentations, regions.patch // scale)
        return crops

    def _on_device(self, regions: Regions) -> Sequence[Tensor]:
        """Numbers, tops, lefts, three augmentations and whether a crop is unlabeled, copied in one transfer: N int64 each."""
        alone = np.zeros(len(regions.numbers), bool) if regions.unlabeled is None else regions.unlabeled
        columns = (regions.numbers, regions.tops, regions.lefts, *regions.augmentations.T, alone)
        return on_device(torch.from_numpy(np.stack(columns).astype(np.int64)), self.device).unbind()


def resident(photos: PhotoDataset, device: torch.device) -> ResidentPhotos | None:
    """The photographs in the memory of a GPU, or None if they do not fit, or on other devices, where it gains nothing."""
    if device.type != "cuda":
        return None
    needed = sum(image.nbytes for images in _collections(photos).values() for image in images)
    return ResidentPhotos(photos, device) if needed <= SHARE_OF_FREE_MEMORY * torch.cuda.mem_get_info(device)[0] else None


def _collections(photos: PhotoDataset) -> dict[str, tuple[np.ndarray, ...]]:
    unlabeled = photos.unlabeled
    parts = {
        "images": photos.images,
        "lr": photos.lr_images,
        "labels": photos.labels,
        "unlabeled images": unlabeled.images if unlabeled else None,
        "unlabeled labels": unlabeled.labels if unlabeled else None,
    }
    return {name: images for name, images in parts.items() if images is not None}


Batch = TrainBatch | Regions
"""The crops of a step: in host memory, or regions of photographs that are on the device."""
