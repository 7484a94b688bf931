"""What does `srcli upscale` do with damaged images and models? Seeded mutations of real files.

    python benchmarks/fuzz.py [--files 10000] [--models 5000] [--seed 0] [--seconds 10] [--gibibytes 1]

Pillow and tifffile create the images: PNG, JPEG, TIFF, WebP and AVIF, with various modes, depths, compressions, EXIF,
profiles and animation. A mutation flips bits, overwrites, removes, repeats, exchanges or truncates bytes, changes numbers in
headers, or mixes two files; half of the time, PNG checksums are corrected, so that the damage gets past them. The models are
small ones of srcli and of two other projects; mutations also change values in headers, and names and shapes of weights. Each
file is used in a worker process with limited memory. A result or one sentence is right. A traceback, a crash, a file that
takes longer than --seconds, more memory than --gibibytes, or a temporary file is wrong: its seed is printed and the file is
kept. A model of another project may reach these limits, if the process in which srcli loads such files first rejects it.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import multiprocessing
import os
import random
import re
import resource
import struct
import sys
import tempfile
import time
import traceback
import warnings
import zlib
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo

MODEL = "base-x2"
TORCH = 2**30
"""Memory that torch and spandrel take themselves, in bytes."""
EVIL = (0, -1, 1, 3, 10**6, 10**9, 10**400, 1e400, -1.5, True, None, "", "x", [], {}, [[]], "compact", "residual", "johnson")
"""What a mutation writes into a header."""
_NOTES = (" is damaged (", " does not keep everything: ")  # about results that were written


def originals() -> dict[str, bytes]:
    """Real files of all formats, by name."""
    numbers = np.random.default_rng(0)
    shades = (numbers.integers(-9, 10, (40, 56, 4)).cumsum(axis=0).cumsum(axis=1) % 256).astype(np.uint8)
    rgba, rgb = Image.fromarray(shades), Image.fromarray(shades[..., :3].copy())
    exif = Image.Exif()
    exif[0x010F], exif[0x0112], exif[0x0132] = "Maker", 6, "2020:01:01 00:00:00"
    exif._ifds[0x8769] = {0x829A: 0.5, 0x9003: "2020:01:01 00:00:00", 0x927C: b"NOTE" * 20}
    text = PngInfo()
    text.add_itxt("XML:com.adobe.xmp", "<x:xmpmeta xmlns:x='adobe:ns:meta/'/>")
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    made: dict[str, bytes] = {}

    def save(name: str, image: Image.Image, **options: object) -> None:
        stream = io.BytesIO()
        image.save(stream, name.rpartition(".")[2], **options)
        made[name] = stream.getvalue()

    others = [rgb.rotate(90 * turn).resize(rgb.size) for turn in (1, 2)]
    save("rgb.png", rgb, exif=exif, icc_profile=profile, pnginfo=text)
    save("rgba.png", rgba)
    save("palette.png", rgb.quantize(16), transparency=3)
    save("bits.png", rgb.convert("1"))
    save("deep.png", Image.fromarray(shades[..., 0].astype(np.uint16) * 257))
    save("moving.png", rgb, save_all=True, append_images=others)
    save("rgb.jpeg", rgb, exif=exif, icc_profile=profile, quality=90)
    save("progressive.jpeg", rgb, progressive=True)
    save("ink.jpeg", rgb.convert("CMYK"))
    save("gray.jpeg", rgb.convert("L"))
    save("rgb.webp", rgb, exif=exif, icc_profile=profile)
    save("lossless.webp", rgba, lossless=True)
    save("moving.webp", rgb, save_all=True, append_images=others)
    save("rgb.avif", rgb, exif=exif, icc_profile=profile)
    save("rgba.avif", rgba)
    save("moving.avif", rgb, save_all=True, append_images=others)
    save("rgb.tiff", rgb, exif=exif, icc_profile=profile)
    save("lzw.tiff", rgb, compression="tiff_lzw")
    save("jpeg.tiff", rgb, compression="jpeg")
    save("bits.tiff", rgb.convert("1"), compression="group4")
    save("pages.tiff", rgb, save_all=True, append_images=others)
    for name, options in {
        "deep": {"compression": "deflate", "predictor": True},
        "big": {"bigtiff": True},
        "tiled": {"tile": (16, 16), "byteorder": ">"},
        "planes": {"planarconfig": "separate"},
    }.items():
        stream = io.BytesIO()
        pixels = shades[..., :3].astype(np.uint16) * 257
        planes = np.ascontiguousarray(pixels.transpose(2, 0, 1)) if name == "planes" else pixels
        tifffile.imwrite(stream, planes, photometric="rgb", **options)
        made[f"{name}.tiff"] = stream.getvalue()
    return made


def mutated(files: dict[str, bytes], seed: int) -> tuple[str, bytes]:
    """A name and the mutated file."""
    choose = random.Random(seed)
    name = choose.choice(sorted(files))
    data = bytearray(files[name])
    for _ in range(choose.choice((1, 1, 1, 2, 3, 8))):
        if not data:
            break
        # half of the mutations are in the first bytes, which contain sizes and types
        place = choose.randrange(min(len(data), 256) if choose.random() < 0.5 else len(data))
        match choose.randrange(9):
            case 0:
                data[place] ^= 1 << choose.randrange(8)
            case 1:
                data[place] = choose.choice((0, 1, 127, 128, 255, choose.randrange(256)))
            case 2:
                size = choose.choice((2, 4, 8))
                number = choose.choice((0, 1, 2**15, 2**16 - 1, 2**31 - 1, 2**32 - 1, 30_000, 100_000, choose.getrandbits(64)))
                data[place : place + size] = (number % 256**size).to_bytes(size, choose.choice(("big", "little")))
            case 3:
                del data[place : place + choose.choice((1, 4, 100))]
            case 4:
                data[place:place] = data[place : place + choose.choice((1, 12, 200))]
            case 5:
                data[place:place] = choose.randbytes(choose.choice((1, 12, 200)))
            case 6:
                del data[place:]
            case 7:
                other = files[choose.choice(sorted(files))]
                data[place:] = other[choose.randrange(len(other)) :]
            case 8:
                end = place + choose.choice((4, 64, 1000))
                data[place:end] = bytes(len(data[place:end]))
    content = bytes(data)
    if name.endswith("png") and choose.random() < 0.5:
        content = with_right_checksums(content)
    return name, content


def with_right_checksums(content: bytes) -> bytes:
    """A PNG with corrected checksums, as far as it has valid chunks."""
    result, place = content[:8], 8
    while place + 12 <= len(content):
        (length,) = struct.unpack(">I", content[place : place + 4])
        body = content[place + 4 : place + 8 + length]
        if len(body) < 4 + length:
            break
        result += content[place : place + 4] + body + struct.pack(">I", zlib.crc32(body))
        place += 12 + length
    return result + content[place:]


def original_models(folder: Path) -> dict[str, bytes]:
    """Small model files of srcli, with int8 data, and of other projects, by name."""
    import torch

    from srcli.config import CompactConfig, JohnsonConfig, ResidualConfig
    from srcli.core.networks import build_generator
    from srcli.inference.third_party import import_spandrel
    from srcli.models.checkpoint import save_model

    import_spandrel()
    from spandrel.architectures.Compact.__arch.SRVGG import SRVGGNetCompact
    from spandrel.architectures.ESRGAN.__arch.RRDB import RRDBNet

    torch.manual_seed(0)
    for config in (
        CompactConfig(channels=8, blocks=2),
        ResidualConfig(channels=8, blocks=2),
        JohnsonConfig(channels=8, blocks=1),
    ):
        calibrated = None if config.architecture == "johnson" else torch.rand(1, 3, 32, 32)
        save_model(folder / f"{config.architecture}.safetensors", build_generator(config), config, {}, calibrated)
    torch.save(SRVGGNetCompact(num_feat=8, num_conv=2, upscale=2).state_dict(), folder / "theirs.pth")
    torch.save({"params": RRDBNet(num_filters=8, num_blocks=1, scale=2).state_dict()}, folder / "esrgan.pth")
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in (".safetensors", ".pth")}
    for name in files:
        (folder / name).unlink()
    return files


def mutated_model(files: dict[str, bytes], seed: int) -> tuple[str, bytes]:
    """A name and the mutated model file."""
    choose = random.Random(seed)
    name = choose.choice(sorted(files))
    if choose.random() < 0.4:
        return name, mutated({name: files[name]}, seed)[1]
    return name, (with_another_header if name.endswith(".safetensors") else with_other_weights)(files[name], choose)


def with_another_header(content: bytes, choose: random.Random) -> bytes:
    """A safetensors file with an evil value in its header, or in the description of the generator that it contains."""
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    description = json.loads(header["__metadata__"]["srcli"])
    place = choose.choice((description, description["generator"], header, header[choose.choice(sorted(header))]))
    key = choose.choice(sorted(place))
    place[key] = choose.choice(EVIL)
    if choose.random() < 0.7 and isinstance(header.get("__metadata__"), dict):
        header["__metadata__"]["srcli"] = json.dumps(description)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + content[8 + length :]


def with_other_weights(content: bytes, choose: random.Random) -> bytes:
    """A file of torch.save with other names, shapes or kinds of weights."""
    import torch

    weights = torch.load(io.BytesIO(content), weights_only=True)
    inner = weights.get("params", weights)
    for _ in range(choose.choice((1, 2, 8))):
        name = choose.choice(sorted(inner))
        match choose.randrange(5):
            case 0:
                inner[re.sub(r"\d+", lambda _: str(choose.choice((0, 7, 99, 10**6))), name, count=1)] = inner[name]
            case 1 if inner[name].ndim:
                shape = list(inner[name].shape)
                shape[choose.randrange(len(shape))] = choose.choice((0, 1, 7, 100_000, 4_000_000))
                inner[name] = torch.zeros(1).expand(shape)
            case 2:
                del inner[name]
            case 3:
                inner[name] = inner[name].real.to(
                    choose.choice((torch.int64, torch.bool, torch.complex64, torch.float8_e4m3fn))
                )
            case _ if inner[name].numel() < 10**6 and inner[name].dtype == torch.float32:
                inner[name] = inner[name] * float("nan")
    stream = io.BytesIO()
    torch.save(weights, stream)
    return stream.getvalue()


def work(orders: Connection, folder: Path, bytes_at_most: int, models: bool) -> None:
    """Upscale one file after another, or by one model after another, and report the result and the process's peak memory."""
    # the address space is larger than the memory in use: threads reserve stacks, and loaded libraries count
    resource.setrlimit(resource.RLIMIT_AS, (bytes_at_most + 6 * 2**30,) * 2)
    descriptor = os.open(folder / "stderr", os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 2)  # of C libraries as well
    sys.stderr = os.fdopen(os.dup(descriptor), "w")
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123
    warnings.simplefilter("ignore")
    from srcli.cli import main
    from srcli.inference import batch
    from srcli.inference.backend import load_model

    image = folder / "image"
    if models:
        from srcli.inference import untrusted

        Image.new("RGB", (16, 12)).save(image, "PNG")
        untrusted.check_loads = lambda _path: None
    else:
        loaded = load_model(MODEL, "cpu")
        batch.load_model = lambda *_: loaded
    while True:
        path: Path = orders.recv()
        os.ftruncate(descriptor, 0)
        os.lseek(descriptor, 0, os.SEEK_SET)
        code: int | None = None
        try:
            what = [str(image), "-m", str(path)] if models else [str(path), "-m", MODEL]
            main(["upscale", *what, "-o", str(folder / "sr.png"), "--device", "cpu", "--overwrite"])
        except SystemExit as end:
            code = int(end.code or 0) if isinstance(end.code, int | None) else -1
        except BaseException:
            traceback.print_exc()
        sys.stderr.flush()
        said = (folder / "stderr").read_text(errors="replace")
        orders.send((code, said, peak_memory()))


def peak_memory() -> int:
    """Of this process, in bytes. `getrusage` would include the process that started it."""
    (line,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(line) * 1024


class Worker:
    """A process that is replaced when it hangs, dies or has used too much memory."""

    def __init__(self, folder: Path, bytes_at_most: int, *, models: bool) -> None:
        self.folder, self.models = folder, models
        self.bytes_at_most = bytes_at_most + (TORCH if models else 0)
        self.begin()

    def begin(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.orders, theirs = context.Pipe()
        self.process = context.Process(target=work, args=(theirs, self.folder, self.bytes_at_most, self.models), daemon=True)
        self.process.start()
        theirs.close()

    def end(self) -> None:
        self.process.kill()
        self.process.join()

    def judge(self, path: Path, seconds: float) -> tuple[str, str, int, float]:
        """The verdict, the message, the peak memory so far, and the time."""
        begin = time.perf_counter()
        self.orders.send(path)
        try:
            if not self.orders.poll(seconds):
                self.end()
                self.begin()
                return "hung", "", 0, seconds
            code, said, peak = self.orders.recv()
        except (EOFError, ConnectionError):
            self.process.join()
            status = self.process.exitcode
            self.begin()
            return f"died with {status}", "", 0, 0
        spent = time.perf_counter() - begin
        left = {entry.name for entry in self.folder.iterdir()} - {"stderr", "image", "sr.png", path.name}
        lines = [line for line in said.splitlines() if line.startswith("srcli: ") and not any(note in line for note in _NOTES)]
        if "Traceback" in said or "Please report it" in said or code is None:
            return "traceback", said, peak, spent
        if peak > self.bytes_at_most:
            self.end()
            self.begin()
            return "too much memory", said, peak, spent
        if left:
            return f"left {sorted(left)}", said, peak, spent
        if self.models and code == 1 and len(lines) == 1:
            lines = lines[:1]  # without the note on third-party models
        if code not in (0, 1) or (code == 1 and not lines) or (code == 0 and lines and not self.models):
            return f"exit code {code} and {len(lines)} sentences", said, peak, spent
        return "upscaled" if code == 0 else "rejected", said, peak, spent


def rejects(path: Path) -> bool:
    """Whether srcli rejects a model of another project before it loads it."""
    from srcli.errors import SrcliError
    from srcli.inference.untrusted import check_loads

    try:
        check_loads(path)
    except SrcliError:
        return True
    return False


def fuzz(
    scratch: Path,
    *,
    files: int,
    seed: int,
    seconds: float,
    bytes_at_most: int,
    keep: Path | None = None,
    models: bool = False,
) -> Counter[str]:
    """The number of each verdict: `upscaled` and `rejected` are right. models: mutate model files, not images."""
    real = original_models(scratch) if models else originals()
    mutate = mutated_model if models else mutated
    verdicts: Counter[str] = Counter()
    largest, longest = 0, (0.0, 0)
    worker = Worker(scratch, bytes_at_most, models=models)
    try:
        # the first image includes loading the model
        for name, content in real.items():
            path = scratch / name
            path.write_bytes(content)
            worker.judge(path, 120)
            path.unlink()
        for number in range(seed, seed + files):
            name, content = mutate(real, number)
            path = scratch / name
            path.write_bytes(content)
            verdict, said, peak, spent = worker.judge(path, seconds)
            if name.endswith(".pth") and verdict not in ("upscaled", "rejected") and rejects(path):
                verdict = "rejected"
            largest, longest = max(largest, peak), max(longest, (spent, number))
            verdicts[verdict] += 1
            if verdict not in ("upscaled", "rejected"):
                print(f"seed {number}, {name}: {verdict}\n{said}", file=sys.stderr)
                if keep:
                    keep.mkdir(parents=True, exist_ok=True)
                    (keep / f"{number}-{name}").write_bytes(content)
            path.unlink()
            for other in scratch.iterdir():
                if other.name not in ("stderr", "image"):
                    with contextlib.suppress(OSError):
                        other.unlink()
    finally:
        worker.end()
    print(f"peak memory {largest / 2**20:.0f} MiB, longest {longest[0]:.1f} s with seed {longest[1]}", file=sys.stderr)
    return verdicts


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--models", type=int, default=5_000)
    parser.add_argument("--seed", type=int, default=0, help="of the first file; each file has the next")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--gibibytes", type=float, default=1)
    parser.add_argument("--keep", type=Path, help="folder for the files that did harm")
    options = parser.parse_args()
    wrong = False
    for models, number in ((False, options.files), (True, options.models)):
        begin = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            counts = fuzz(
                Path(folder),
                files=number,
                seed=options.seed,
                seconds=options.seconds,
                bytes_at_most=int(options.gibibytes * 2**30),
                keep=options.keep,
                models=models,
            )
        verdicts = ", ".join(f"{n} {what}" for what, n in counts.items())
        print(f"{number} {'models' if models else 'images'} in {time.perf_counter() - begin:.0f} s: {verdicts}")
        wrong |= bool(set(counts) - {"upscaled", "rejected"})
    sys.exit(wrong)
