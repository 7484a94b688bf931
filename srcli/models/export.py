"""ONNX export, verified against torch."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import numpy as np
import torch

from srcli.core.networks import Generator
from srcli.errors import SrcliError
from srcli.io.atomic import atomic_write
from srcli.version import __version__

TOLERANCE = 1e-4
"""The largest difference between pixels of the ONNX file and of torch, in [0, 1]."""

SIZES = ((1, 1), (5, 9), (64, 31))
"""Heights and widths for which the file is compared with torch."""


def export_onnx(generator: Generator, path: Path, *, overwrite: bool = False) -> None:
    """Write the generator as ONNX: input `lr`, 1 x 3 x H x W, output `sr`, 1 x 3 x sH x sW, RGB float32 in [0, 1], any H and W.

    The metadata hold `scale` and `halo`, for programs that cut images into tiles. The file is kept only if ONNX Runtime
    computes the same with it as torch.
    Raises SrcliError if onnx is missing, if the output differs from torch's, or if the file exists or cannot be written.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise SrcliError(
            f"ONNX export needs more packages ({error}). Install them: pip install onnx onnxruntime onnxscript"
        ) from None
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns that torchvision is missing, which is not needed
    generator = generator.fused().eval()
    random = torch.Generator().manual_seed(0)
    with atomic_write(path, overwrite=overwrite) as part:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecation warnings inside torch's exporter
            program = torch.onnx.export(
                generator,
                (torch.rand(1, 3, 16, 24, generator=random),),
                dynamo=True,
                input_names=["lr"],
                output_names=["sr"],
                dynamic_shapes={"lr": {2: "height", 3: "width"}},
                verbose=False,
            )
        assert program is not None
        about = {"srcli": __version__, "scale": str(generator.scale), "halo": str(generator.halo)}
        program.model.metadata_props.update(about)
        program.save(part)
        session = onnxruntime.InferenceSession(part, providers=["CPUExecutionProvider"])
        for height, width in SIZES:
            lr = torch.rand(1, 3, height, width, generator=random)
            with torch.inference_mode():
                expected = generator(lr).numpy()
            difference = np.abs(session.run(["sr"], {"lr": lr.numpy()})[0] - expected).max()
            if not difference < TOLERANCE:
                raise SrcliError(
                    f"The ONNX file differs from the model by {difference:.1g} at {width}x{height} pixels, so it was deleted. "
                    "Try other versions of torch and onnxscript."
                )
