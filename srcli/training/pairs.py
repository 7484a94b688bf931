"""The images of a step, (lr, hr) on the device, from the crops of a batch."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from srcli.config import TrainConfig
from srcli.core.degradation import degraded_pair, degraded_small
from srcli.training.dataset import TrainBatch


class PairMaker:
    """Makes the images of steps, always in the same thread, so that the results are the same to the bit."""

    def __init__(self, config: TrainConfig, device: torch.device, rank: int = 0) -> None:
        """rank: of this process, whose images have numbers of their own."""
        self.config, self.device, self.rank = config, device, rank
        self.buffers: dict[tuple[object, ...], Tensor] = {}
        self.thread = ThreadPoolExecutor(1)
        self.ahead: tuple[TrainBatch, Future[tuple[Tensor, Tensor]]] | None = None

    def begin(self, batch: TrainBatch, step: int) -> None:
        """Start making the images of a step. This overwrites those of the step before."""
        self.ahead = batch, self.thread.submit(self.pair, batch, step)

    def pair_of(self, batch: TrainBatch, step: int) -> tuple[Tensor, Tensor]:
        """The images of a step, which may have been started."""
        if self.ahead is None or self.ahead[0] is not batch:
            self.begin(batch, step)
        assert self.ahead is not None
        return self.ahead[1].result()

    def pair(self, batch: TrainBatch, step: int) -> tuple[Tensor, Tensor]:
        """(lr, hr) on the device, augmented: N x 3 x patch / scale and N x 3 x patch (both sides), RGB in [0, 1].

        With labels, hr is the mean of photograph and label, weighted by `teacher_weight`.
        step: number of steps before this one, which seeds the degradation.
        """
        scale = self.config.generator.scale
        hr = self.to_device("hr", batch.hr, batch.augmentations)
        labels = None if batch.labels is None else self.to_device("labels", batch.labels, batch.augmentations)
        if batch.lr is not None:
            lr = self.to_device("lr", batch.lr, batch.augmentations)
        else:
            seed = (self.config.seed, step, 1)
            first = self.rank * self.config.batch
            lr, hr = degraded_pair(self.config.degradation, hr, scale, seed=seed, first=first)
            if batch.small is not None and batch.unlabeled is not None:
                small = self.to_device("small", batch.small, batch.augmentations)
                small = degraded_small(self.config.degradation, small, scale, seed=seed, first=first)
                lr = torch.where(torch.from_numpy(batch.unlabeled).to(self.device)[:, None, None, None], small, lr)
        if labels is not None:
            rim = (labels.shape[-1] - hr.shape[-1]) // 2
            hr = hr.lerp(labels[..., rim : rim + hr.shape[-2], rim : rim + hr.shape[-1]], self.config.teacher_weight)
        return lr.contiguous(memory_format=torch.channels_last), hr

    def to_device(self, role: str, pixels: np.ndarray, augmentations: np.ndarray) -> Tensor:
        """N x P x P x 3 uint8 to N x 3 x P x P in [0, 1] on the device, augmented. role: each has its own memory."""
        crops = torch.from_numpy(pixels)
        if self.device.type == "cuda":
            crops = crops.pin_memory().to(self.device, non_blocking=True)
        shape = (len(crops), 3, *crops.shape[1:3])
        key = (role, *shape)
        if key not in self.buffers:  # allocating new memory would take longer than filling it
            self.buffers[key] = torch.empty(shape, device=self.device)
        images = self.buffers[key]
        for image, crop, augmentation in zip(images, crops, augmentations, strict=True):
            image.copy_(_augmented(crop.permute(2, 0, 1), *augmentation).contiguous())  # augmented while a value is one byte
        return images.div_(255)


def _augmented(image: Tensor, transpose: bool, flip: bool, mirror: bool) -> Tensor:
    """C x P x P transposed, flipped vertically, and flipped horizontally: eight variants."""
    image = image.transpose(1, 2) if transpose else image
    return image.flip([axis for axis, wanted in ((1, flip), (2, mirror)) if wanted])
