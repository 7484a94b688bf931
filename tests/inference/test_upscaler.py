"""The Python API: images of every kind come back as the same kind, equal to what the command writes."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as PILImage
from PIL import ImageCms

import srcli
from srcli.io.image import Image
from srcli.io.read import read_image
from srcli.io.write import write_image
from tests.conftest import CommandResult

Command = Callable[..., CommandResult]
Pixels = Callable[..., np.ndarray]


@pytest.fixture
def command(request: pytest.FixtureRequest) -> Command:
    result: Command = request.getfixturevalue("srcli")
    return result


@pytest.fixture
def upscaler(model: Path) -> srcli.Upscaler:
    return srcli.load_model(model, device="cpu")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_arrays_equal_what_the_command_writes(
    command: Command, upscaler: srcli.Upscaler, model: Path, tmp_path: Path, pixels: Pixels, dtype: type, channels: int
) -> None:
    array = pixels(30, 40, channels, dtype)
    write_image(Image(array), tmp_path / "lr.png")
    assert command("upscale", tmp_path / "lr.png", "-m", model, "-o", tmp_path / "sr.png").exit_code == 0
    expected = read_image(tmp_path / "sr.png").pixels
    result = upscaler(array)
    assert (result.dtype, result.shape) == (dtype, (60, 80, channels))
    np.testing.assert_array_equal(result, expected)
    np.testing.assert_array_equal(upscaler(tmp_path / "lr.png").pixels, expected)
    if channels == 1:
        np.testing.assert_array_equal(upscaler(array[..., 0]), expected[..., 0])


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_float_arrays_come_back_with_their_type(upscaler: srcli.Upscaler, pixels: Pixels, dtype: type) -> None:
    array = pixels(30, 40)
    result = upscaler((array / 255).astype(dtype))
    assert result.dtype == dtype
    np.testing.assert_allclose(result.astype(np.float64) * 255, upscaler(array), atol=0.7)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float16, torch.bfloat16])
def test_tensors_come_back_with_their_type(upscaler: srcli.Upscaler, pixels: Pixels, dtype: torch.dtype) -> None:
    array = pixels(30, 40)
    whole = torch.from_numpy(array).permute(2, 0, 1)
    tensor = (whole if dtype == torch.uint8 else whole / 255).to(dtype)
    single = upscaler(tensor)
    batch = upscaler(torch.stack([tensor, tensor.flip(-1)]))
    assert (single.dtype, single.shape, batch.shape) == (dtype, (3, 60, 80), (2, 3, 60, 80))
    assert torch.equal(batch[0], single)
    levels = single.float() * (1 if dtype == torch.uint8 else 255)
    expected = torch.from_numpy(upscaler(array)).permute(2, 0, 1).float()
    assert (levels - expected).abs().mean() < (0.01 if dtype == torch.uint8 else 1)


@pytest.mark.gpu
def test_tensors_stay_on_their_device(upscaler: srcli.Upscaler) -> None:
    tensor = torch.rand(3, 20, 30, device="cuda")
    assert upscaler(tensor).device == tensor.device


@pytest.mark.parametrize(
    ("mode", "result_mode"), [("RGB", "RGB"), ("RGBA", "RGBA"), ("L", "L"), ("LA", "LA"), ("P", "RGB"), ("1", "L")]
)
def test_pil_images_come_back_as_pil_images(upscaler: srcli.Upscaler, pixels: Pixels, mode: str, result_mode: str) -> None:
    image = PILImage.fromarray(pixels(30, 40)).convert(mode)
    image.info["icc_profile"] = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image.info["dpi"] = (300, 300)
    result = upscaler(image)
    assert (type(result), result.mode, result.size) == (PILImage.Image, result_mode, (80, 60))
    assert result.info["dpi"] == (300, 300)
    assert result.info["icc_profile"] == image.info["icc_profile"]
    expected = upscaler(np.asarray(image.convert(result_mode))) if result_mode != "LA" else np.asarray(result)
    np.testing.assert_array_equal(np.asarray(result), expected)


def test_a_pil_image_with_16_bits(upscaler: srcli.Upscaler, pixels: Pixels) -> None:
    array = pixels(30, 40, 1, np.uint16)[..., 0]
    result = upscaler(PILImage.fromarray(array))
    assert result.mode == "I;16"
    np.testing.assert_array_equal(np.asarray(result), upscaler(array))


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (None, "of type NoneType is not supported"),
        ([[1, 2], [3, 4]], "of type list is not supported"),
        (np.zeros((4, 5, 2), np.uint8), r"shape \(4, 5, 2\) is not an image"),
        (np.zeros((2, 4, 5, 3), np.uint8), r"shape \(2, 4, 5, 3\) is not an image"),
        (np.zeros((0, 5, 3), np.uint8), r"shape \(0, 5, 3\) is not an image"),
        (np.zeros((4, 5, 3), np.int64), "type int64 is not supported"),
        (np.full((4, 5, 3), 255.0), "must be from 0 to 1, but are 255 to 255"),
        (np.full((4, 5, 3), np.nan), "must be from 0 to 1"),
        (torch.zeros(4, 5, 3), r"shape \(4, 5, 3\) is not an image"),
        (torch.zeros(3, 4, 5, dtype=torch.int64), "type torch.int64 is not supported"),
        (PILImage.new("CMYK", (4, 5)), "mode CMYK is not supported"),
    ],
)
def test_anything_else_is_a_type_error_in_one_sentence(upscaler: srcli.Upscaler, value: object, sentence: str) -> None:
    with pytest.raises(TypeError, match=sentence):
        upscaler(value)  # type: ignore[call-overload]


def test_a_model_is_chosen_as_on_the_command_line() -> None:
    assert repr(srcli.load_model(device="cpu")).startswith("<Upscaler base-x4:int8 x4 on cpu (OpenVINO")
    assert srcli.load_model(scale=2, denoise=1, device="cpu").name == "base-x2-photo:int8"
    assert srcli.load_model("base-x3", device="cpu").scale == 3
    with pytest.raises(srcli.SrcliError, match="no such model for scale 5; choose one of 2, 3, 4"):
        srcli.load_model(scale=5)
    with pytest.raises(srcli.SrcliError, match="`model` excludes"):
        srcli.load_model("base-x4", scale=2)


def test_the_folder_of_a_run_is_a_model(model: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "model.safetensors").write_bytes(model.read_bytes())
    assert srcli.load_model(run, device="cpu").scale == 2
    with pytest.raises(srcli.SrcliError, match="is a folder without a model"):
        srcli.load_model(tmp_path)


def test_upscale_loads_the_model_itself(model: Path, upscaler: srcli.Upscaler, pixels: Pixels) -> None:
    array = pixels(20, 30)
    np.testing.assert_array_equal(srcli.upscale(array, model, device="cpu"), upscaler(array))
    np.testing.assert_array_equal(srcli.upscale(array, upscaler), upscaler(array))


def test_comparisons_take_every_kind_of_image(tmp_path: Path, pixels: Pixels) -> None:
    arrays = [pixels(40, 50, seed=seed) for seed in range(2)]
    for number, array in enumerate(arrays):
        write_image(Image(array), tmp_path / f"{number}.png")
    expected = srcli.compare(tmp_path / "0.png", tmp_path / "1.png")
    kinds: list[Callable[[np.ndarray], object]] = [
        lambda array: array,
        Image,
        PILImage.fromarray,
        lambda array: torch.from_numpy(array).permute(2, 0, 1),
        lambda array: array.astype(np.uint16) * 257,
    ]
    for kind in kinds:
        result = srcli.compare(*map(kind, arrays))  # type: ignore[arg-type]
        assert result.layers == pytest.approx(expected.layers, rel=1e-5)
        assert result.psnr == pytest.approx(expected.psnr, rel=1e-6)
    with pytest.raises(TypeError, match="2 images were given"):
        srcli.compare(torch.zeros(2, 3, 40, 50), arrays[0])


def test_comparisons_convert_the_profile_of_a_pil_image(pixels: Pixels, tmp_path: Path) -> None:
    image = PILImage.fromarray(pixels(40, 50))
    image.info["icc_profile"] = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()  # of another kind: ignored
    assert srcli.compare(image, np.asarray(image)).pixel == 0


def test_the_public_names_are_listed_loaded_late_and_described_in_a_line(upscaler: srcli.Upscaler, pixels: Pixels) -> None:
    assert {"load_model", "upscale", "compare", "train", "FeatureLoss", "VGG16Features", "psnr"} <= set(dir(srcli))
    for name in dir(srcli):
        assert getattr(srcli, name) is not None
    array = pixels(40, 50)
    objects = [
        upscaler,
        Image(array),
        srcli.compare(array, array),
        srcli.FeatureLoss("relu1_2"),
        srcli.VGG16Features("relu1_2"),
    ]
    for each in objects:
        assert len(repr(each).splitlines()) == 1
        assert len(repr(each)) < 130
    code = "import sys, srcli; dir(srcli); assert not {'torch', 'numpy', 'pyvips'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
