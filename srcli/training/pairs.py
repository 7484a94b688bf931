"""The images of a step, (lr, hr) on the device, from the crops of a batch."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from srcli.config import TrainConfig
from srcli.core.degradation import degraded_pair, degraded_small
from srcli.training.dataset import Regions
from srcli.training.gather import Batch, ResidentPhotos, gather_batch, on_device


class PairMaker:
    """Makes the images of steps, always in the same thread, so that the results are the same to the bit."""

    def __init__(self, config: TrainConfig, device: torch.device, rank: int = 0) -> None:
        """rank: of this process, whose images have numbers of their own."""
        self.config, self.device, self.rank = config, device, rank
        self.buffers: dict[tuple[object, ...], Tensor] = {}
        self.thread = ThreadPoolExecutor(1)
        self.ahead: tuple[Batch, Future[tuple[tuple[Tensor, Tensor], torch.cuda.Event | None]]] | None = None
        self.stream: torch.cuda.Stream | None = None
        self.resident: ResidentPhotos | None = None
        """The photographs whose regions are given as batches."""

    def begin(self, batch: Batch, step: int) -> None:
        """Start making the images of a step. On the CPU, this overwrites those of the step before."""
        self.ahead = batch, self.thread.submit(self._made, batch, step)

    def pair_of(self, batch: Batch, step: int) -> tuple[Tensor, Tensor]:
        """The images of a step, which may have been started."""
        if self.ahead is None or self.ahead[0] is not batch:
            self.begin(batch, step)
        assert self.ahead is not None
        images, made = self.ahead[1].result()
        if made is not None:
            current = torch.cuda.current_stream(self.device)
            current.wait_event(made)
            for image in images:
                image.record_stream(current)
        return images

    def _made(self, batch: Batch, step: int) -> tuple[tuple[Tensor, Tensor], torch.cuda.Event | None]:
        """The images of a step. On a GPU they are made on a stream of their own, beside the step before."""
        if self.device.type != "cuda":
            return self.pair(batch, step), None
        self.stream = self.stream or torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        with torch.cuda.stream(self.stream):
            images = self.pair(batch, step)
            made = torch.cuda.Event()  # type: ignore[no-untyped-call]
            made.record(self.stream)
        return images, made

    def pair(self, batch: Batch, step: int) -> tuple[Tensor, Tensor]:
        """(lr, hr) on the device, augmented: N x 3 x patch / scale and N x 3 x patch (both sides), RGB in [0, 1].

        With labels, hr is the mean of photograph and label, weighted by `teacher_weight`.
        step: number of steps before this one, which seeds the degradation.
        """
        scale, crops = self.config.generator.scale, self.crops(batch)
        hr = crops["hr"]
        if "lr" in crops:
            lr = crops["lr"]
        else:
            seed, first = (self.config.seed, step, 1), self.rank * self.config.batch
            lr, hr = degraded_pair(self.config.degradation, hr, scale, seed=seed, first=first)
            if "small" in crops and batch.unlabeled is not None:
                small = degraded_small(self.config.degradation, crops["small"], scale, seed=seed, first=first)
                alone = on_device(torch.from_numpy(batch.unlabeled), self.device)
                lr = torch.where(alone[:, None, None, None], small, lr)
        if "labels" in crops:
            labels = crops["labels"]
            rim = (labels.shape[-1] - hr.shape[-1]) // 2
            hr = hr.lerp(labels[..., rim : rim + hr.shape[-2], rim : rim + hr.shape[-1]], self.config.teacher_weight)
        return lr.contiguous(memory_format=torch.channels_last), hr

    def crops(self, batch: Batch) -> dict[str, Tensor]:
        """hr and, if there are any, lr, labels and small of a batch: N x 3 x P x P in [0, 1] on the device, augmented."""
        if isinstance(batch, Regions):
            assert self.resident is not None
            return {role: crops.float().div_(255) for role, crops in self.resident.crops(batch).items()}
        parts = {"hr": batch.hr, "lr": batch.lr, "labels": batch.labels, "small": batch.small}
        given = {role: pixels for role, pixels in parts.items() if pixels is not None}
        if self.device.type == "cpu":
            return {role: self._augmented(role, pixels, batch.augmentations) for role, pixels in given.items()}
        flags = on_device(torch.from_numpy(batch.augmentations), self.device)
        return {role: gather_batch(pixels, flags, self.device).float().div_(255) for role, pixels in given.items()}

    def _augmented(self, role: str, pixels: np.ndarray, augmentations: np.ndarray) -> Tensor:
        """Crops on the CPU, where one after the other is faster than `gather_batch`. role: each has its own memory."""
        crops = torch.from_numpy(pixels)
        shape = (len(crops), 3, *crops.shape[1:3])
        key = (role, *shape)
        if key not in self.buffers:  # allocating new memory would take longer than filling it
            self.buffers[key] = torch.empty(shape)
        images = self.buffers[key]
        for image, crop, augmentation in zip(images, crops, augmentations, strict=True):
            image.copy_(_augmented(crop.permute(2, 0, 1), *augmentation).contiguous())  # augmented while a value is one byte
        return images.div_(255)


def _augmented(image: Tensor, transpose: bool, flip: bool, mirror: bool) -> Tensor:
    """C x P x P transposed, flipped vertically, and flipped horizontally: eight variants."""
    image = image.transpose(1, 2) if transpose else image
    return image.flip([axis for axis, wanted in ((1, flip), (2, mirror)) if wanted])
