"""How many steps per second does training take, what limits it, and how does it compare with a plain PyTorch loop?

    python benchmarks/train_throughput.py PHOTOS [--config YAML] [--steps 10] [--rounds 5] [--seconds 5] [--device cpu]

Alternates between: srcli's loop on photographs; the same loop with lr and hr ready in memory; srcli's loop in float32; and a
common loop, a DataLoader with two workers that opens and decodes a photograph with Pillow for each crop, with the same network,
losses, batch and patch, in float32 and the default memory format. Prints medians and median ratios; then, for --seconds, the
speed with photographs in the GPU's memory and the step as a CUDA graph, if there is a GPU, with images and megapixels of hr per
second, and the shares of the time in which the GPU is busy and of its peak in matrix products; then the share of
generator, loss, images (here before the step; in training they are prepared while the optimizer runs) and the rest; then time
and memory of the feature loss at relu4_3, forward and backward, compared with common usage of VGG16: float32, both images in
the graph, no in-place ReLU. The default config is a `compact` network with the pixel loss. The first round is a warm-up and is
not counted.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from itertools import repeat
from pathlib import Path
from threading import Event, Thread

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from srcli.config import CompactConfig, TrainConfig
from srcli.core.device import autocast_dtype, pick_device
from srcli.core.graph import BODIES, shapes_of
from srcli.core.losses import WeightedLoss
from srcli.core.networks import build_generator
from srcli.core.vgg import VGG16Features
from srcli.io.discover import find_images
from srcli.models.perceptual import FeatureLoss
from srcli.training.dataset import PhotoDataset, prefetched
from srcli.training.gather import Batch
from srcli.training.loop import READ_STEPS
from srcli.training.pairs import PairMaker
from srcli.training.settings import read_yaml
from srcli.training.trainer import Trainer, crop_size
from srcli.training.update import WARM_UP


def make_loss(config: TrainConfig) -> WeightedLoss:
    loss = config.loss
    feature = FeatureLoss(loss.layers, loss.distance, config.vgg) if loss.feature else None
    return WeightedLoss(loss, feature, config.generator.scale)


class Ready(PairMaker):
    """Images that are ready in memory."""

    def pair(self, batch: Batch, step: int) -> tuple[Tensor, Tensor]:
        if not hasattr(self, "ready"):
            self.ready = super().pair(batch, step)
        return self.ready


def ready(config: TrainConfig, device: torch.device) -> Trainer:
    trainer = Trainer(config, make_loss(config), device)
    trainer.pairs = Ready(config, device)
    return trainer


def ours(trainer: Trainer, photos: PhotoDataset) -> Callable[[int], None]:
    config = trainer.config

    def crops_of(step: int) -> Batch:
        return photos.batch(step, seed=0, size=config.batch, patch=crop_size(config))

    batches = prefetched(crops_of, 0) if type(trainer.pairs) is PairMaker else repeat(crops_of(0))
    return stepper(batches, trainer.step)


def stepper(batches: Iterator[Batch], take: Callable[[Batch, Batch], object]) -> Callable[[int], None]:
    """Takes so many steps. take: is given the batch of a step and the following one."""
    batch = next(batches)

    def steps(number: int) -> None:
        nonlocal batch
        for _ in range(number):
            following = next(batches)
            take(batch, following)
            batch = following

    return steps


class Plain(Dataset[tuple[Tensor, Tensor]]):
    """Reads each crop from its file."""

    def __init__(self, folder: Path, config: TrainConfig) -> None:
        self.paths = find_images(folder)
        self.patch, self.scale = config.patch, config.generator.scale

    def __len__(self) -> int:
        return 10**9

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        with Image.open(self.paths[random.randrange(len(self.paths))]) as file:
            photo = file.convert("RGB")
        left, top = (random.randrange(side - self.patch + 1) for side in photo.size)
        hr = photo.crop((left, top, left + self.patch, top + self.patch))
        if random.random() < 0.5:
            hr = hr.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        hr = hr.rotate(90 * random.randrange(4))
        lr = hr.resize((self.patch // self.scale, self.patch // self.scale), Image.Resampling.BICUBIC)
        return to_tensor(lr), to_tensor(hr)


def to_tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255


def plain(folder: Path, config: TrainConfig, device: torch.device) -> Callable[[int], None]:
    generator = build_generator(config.generator).to(device)
    loss = make_loss(config).to(device)
    optimizer = torch.optim.Adam(generator.parameters(), lr=config.lr)
    batches: Iterator[list[Tensor]] = iter(DataLoader(Plain(folder, config), config.batch, num_workers=2))

    def steps(count: int) -> None:
        for _ in range(count):
            lr, hr = (each.to(device) for each in next(batches))
            optimizer.zero_grad()
            loss(generator(lr), hr).total.backward()
            optimizer.step()

    return steps


def seconds(work: Callable[[], object], device: torch.device) -> float:
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


class Watch:
    """GPU utilization in percent while something runs, as reported by the driver. Nothing on other devices."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seen: list[int] = []

    def __enter__(self) -> Watch:
        self._over = Event()
        self._thread = Thread(target=self._look, daemon=True)
        if self.device.type == "cuda":
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self.device.type == "cuda":
            self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(0.1):
            try:
                self.seen.append(torch.cuda.utilization(self.device))
            except (ImportError, RuntimeError):  # needs nvidia-ml-py
                return

    def __str__(self) -> str:
        return f"  GPU busy {statistics.mean(self.seen):.0f} %" if self.seen else ""


def matrix_peak(device: torch.device, dtype: torch.dtype, rounds: int = 9) -> float:
    """Operations per second of the fastest of several products of two large matrices."""
    side = 8192 if device.type == "cuda" else 1024
    one, other = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    seconds(lambda: one @ other, device)
    return 2 * side**3 / min(seconds(lambda: one @ other, device) for _ in range(rounds))


def loop_speed(config: TrainConfig, photos: PhotoDataset, device: torch.device, duration: float) -> dict[str, float]:
    """The speed of steps as `srcli train` takes them, for about so many seconds after a warm-up.

    captured: 1 if the step is a CUDA graph. peak_share: of the matrix products of the generator, forward and backward, in the
    peak of the device in the same precision; not for johnson. busy: percent, if the driver reports it.
    """
    trainer = Trainer(config, make_loss(config), device)
    trainer.use_gpu(photos)
    kept = trainer.pairs.resident
    options = {"seed": 0, "size": config.batch, "patch": crop_size(config)}
    batches = prefetched(lambda step: (kept.photos.regions if kept else photos.batch)(step, **options), 0)
    advance = stepper(batches, trainer.advance)

    def steps(number: int) -> None:
        advance(number)
        list(trainer.results())

    steps(WARM_UP + 2)
    group = READ_STEPS if device.type == "cuda" else 1
    taken, began = 0, time.perf_counter()
    with Watch(device) as watch:
        while time.perf_counter() - began < duration:
            steps(group)
            taken += group
        passed = time.perf_counter() - began
    batches.close()
    images = taken * config.batch / passed
    speed = {
        "steps_per_second": taken / passed,
        "images_per_second": images,
        "hr_megapixels_per_second": images * config.patch**2 / 1e6,
        "captured": float(getattr(trainer.run, "graph", None) is not None),
    }
    if type(config.generator) in BODIES:
        pixels = (config.patch // config.generator.scale) ** 2
        operations = 3 * 2 * shapes_of(config.generator).operations * pixels * images  # the backward pass has two products each
        speed["peak_share"] = operations / matrix_peak(device, trainer.autocast)
    if watch.seen:
        speed["busy"] = statistics.mean(watch.seen)
    return speed


def shares(trainer: Trainer, photos: PhotoDataset, rounds: int) -> None:
    config, device = trainer.config, trainer.device
    crops = photos.batch(0, seed=0, size=config.batch, patch=crop_size(config))
    lr, hr = trainer.pair(crops)
    gradient = torch.randn_like(hr)

    def generator() -> None:
        with torch.autocast(device.type, trainer.autocast, enabled=trainer.autocast != torch.float32):
            sr = trainer.generator(lr)
        sr.float().backward(gradient)

    def loss() -> None:
        sr = hr.clone().requires_grad_()
        with torch.autocast(device.type, trainer.autocast, enabled=trainer.autocast != torch.float32):
            total = trainer.loss(sr, hr).total
        total.backward()

    parts = {"generator": generator, "loss": loss, "images": lambda: trainer.pair(crops)}
    times: dict[str, list[float]] = {name: [] for name in (*parts, "step")}
    for _ in range(4 * rounds):
        for name, part in parts.items():
            times[name].append(seconds(part, device))
        times["step"].append(seconds(lambda: trainer.step(crops), device))
    step = statistics.median(times["step"])
    print(f"one step, {1e3 * step:.0f} ms:")
    rest = 1.0
    for name in parts:
        share = statistics.median(times[name]) / step
        rest -= share
        print(f"  {name:<32} {share:6.1%}")
    print(f"  {'optimizer, average and the rest':<32} {rest:6.1%}")


def _conv(vgg: VGG16Features, name: str) -> nn.Conv2d:
    weight, bias = getattr(vgg, f"{name}_weight"), getattr(vgg, f"{name}_bias")
    conv = nn.Conv2d(weight.shape[1], weight.shape[0], 3, padding=1, device="meta")
    conv.weight, conv.bias = (nn.Parameter(tensor, requires_grad=False) for tensor in (weight, bias))
    return conv


def usual_feature_loss(vgg: VGG16Features, sr: Tensor, hr: Tensor) -> Tensor:
    kinds: dict[str, Callable[[], nn.Module]] = {"relu": nn.ReLU, "pool": lambda: nn.MaxPool2d(2)}
    layers = nn.Sequential(*(kinds[name[:4]]() if name[:4] in kinds else _conv(vgg, name) for name in vgg.plan))

    def features(image: Tensor) -> Tensor:
        activations: Tensor = layers((image - vgg.mean) / vgg.std)
        return activations

    return F.mse_loss(features(sr), features(hr))


def kept(work: Callable[[], object]) -> int:
    """Bytes that the graph keeps for the backward pass, each storage once."""
    storages: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        result = work()  # kept until all are counted, or their addresses would be reused
    del result
    return sum(storages.values())


def feature_loss(config: TrainConfig, device: torch.device, rounds: int) -> None:
    ours, usual = (FeatureLoss({"relu4_3": 1.0}).to(device) for _ in range(2))
    ours.to(memory_format=torch.channels_last)
    hr = torch.rand(config.batch, 3, config.patch, config.patch, device=device)
    sr, true = torch.rand_like(hr).requires_grad_(), hr.clone().requires_grad_()
    autocast = autocast_dtype("auto", device)

    def in_srcli() -> Tensor:
        with torch.autocast(device.type, autocast, enabled=autocast != torch.float32):
            return ours(sr, hr)

    ways = {"srcli": in_srcli, "usual": lambda: usual_feature_loss(usual.vgg, sr, true)}
    memory = {name: kept(way) / 1e6 for name, way in ways.items()}
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            times[name].append(seconds(lambda way=way: way().backward(), device))  # type: ignore[misc]
    ratio = statistics.median(usual / mine for mine, usual in zip(times["srcli"], times["usual"], strict=True))
    print(f"feature loss: {ratio:.1f} times as fast as common usage; the graph keeps {memory['srcli']:.0f} MB for the")
    print(f"  backward pass, and common usage {memory['usual']:.0f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--config", type=Path)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    default = TrainConfig(generator=CompactConfig(scale=4, channels=48, blocks=9), batch=16, patch=192)
    config = read_yaml(options.config) if options.config else default
    device = pick_device(options.device)
    photos = PhotoDataset.read(options.photos, smallest=crop_size(config), cache="auto")
    trainer = Trainer(config, make_loss(config), device)
    single = replace(config, precision="fp32")
    arms = {
        f"srcli, {str(trainer.autocast).removeprefix('torch.')}": ours(trainer, photos),
        "the same with ready tensors": ours(ready(config, device), photos),
        "srcli, float32": ours(Trainer(single, make_loss(single), device), photos),
        "plain PyTorch loop, float32": plain(options.photos, config, device),
    }
    times: dict[str, list[float]] = {name: [] for name in arms}
    watches = {name: Watch(device) for name in arms}
    for turn in range(options.rounds + 1):
        for name, steps in arms.items():
            with watches[name] if turn else nullcontext():
                taken = seconds(lambda steps=steps: steps(options.steps), device)  # type: ignore[misc]
            if turn:
                times[name].append(taken / options.steps)
    speed = loop_speed(config, photos, device, options.seconds)
    first = next(iter(arms))
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {device}; {config.batch} crops of {config.patch}")
    print(f"{'':<32} steps/s  speed of {first} relative to it (range)")
    for name, taken in times.items():
        ratios = sorted(other / mine for mine, other in zip(times[first], taken, strict=True))
        spread = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        print(f"{name:<32} {1 / statistics.median(taken):7.2f}  {spread}{watches[name]}")
    print("as `srcli train` takes steps:", ", ".join(f"{name} {value:.3g}" for name, value in speed.items()))
    shares(trainer, photos, options.rounds)
    feature_loss(config, device, options.rounds)


if __name__ == "__main__":
    main()
