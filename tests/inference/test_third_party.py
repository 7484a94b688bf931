"""Third-party models: real architectures with random weights, in the file formats of their projects."""

import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from srcli.inference.backend import load_model
from srcli.inference.third_party import import_spandrel
from srcli.inference.upscale import upscale
from srcli.io.image import Image
from srcli.io.read import read_image
from tests.conftest import CommandResult

Command = Callable[..., CommandResult]
Pixels = Callable[..., np.ndarray]

import_spandrel()
from spandrel.architectures.Compact.__arch.SRVGG import SRVGGNetCompact  # noqa: E402
from spandrel.architectures.ESRGAN.__arch.RRDB import RRDBNet  # noqa: E402
from spandrel.architectures.HAT.__arch.HAT import HAT  # noqa: E402
from spandrel.architectures.RCAN.__arch.rcan_arch import RCAN  # noqa: E402
from spandrel.architectures.SPAN.__arch.span import SPAN  # noqa: E402
from spandrel.architectures.SwinIR.__arch.SwinIR import SwinIR  # noqa: E402


def swinir() -> nn.Module:
    return SwinIR(
        img_size=16,
        window_size=8,
        embed_dim=12,
        depths=[2, 2],
        num_heads=[2, 2],
        mlp_ratio=2,
        upscale=2,
        upsampler="pixelshuffle",
    )


def hat() -> nn.Module:
    return HAT(
        img_size=16, window_size=8, embed_dim=96, depths=[2], num_heads=[2], mlp_ratio=1, upscale=2, upsampler="pixelshuffle"
    )


NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "Compact": (lambda: SRVGGNetCompact(num_feat=8, num_conv=4, upscale=4), 4),
    "ESRGAN": (lambda: RRDBNet(num_filters=8, num_blocks=1, scale=4), 4),
    "Real-ESRGAN x2": (lambda: RRDBNet(in_nc=12, num_filters=8, num_blocks=1, scale=4, shuffle_factor=2), 2),
    "SPAN": (lambda: SPAN(num_in_ch=3, num_out_ch=3, feature_channels=8, upscale=2), 2),
    "SwinIR": (swinir, 2),
    "HAT": (hat, 2),
    "RCAN": (lambda: RCAN(scale=2, n_resgroups=2, n_resblocks=2, n_feats=16, reduction=4), 2),
}


@pytest.fixture(autouse=True)
def _trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Load without a process of its own, which takes seconds. tests/inference/test_untrusted.py tests that."""
    monkeypatch.setattr("srcli.inference.untrusted.check_loads", lambda _path: None)


def save(path: Path, make: Callable[[], nn.Module]) -> Path:
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = make().eval()
    if path.suffix == ".safetensors":
        save_file(network.state_dict(), path)
    else:
        torch.save({"params_ema": network.state_dict()}, path)
    return path


@pytest.mark.parametrize("name", NETWORKS)
def test_any_size_is_upscaled_without_seams(name: str, tmp_path: Path, pixels: Pixels) -> None:
    make, scale = NETWORKS[name]
    backend = load_model(save(tmp_path / "theirs.pth", make), "cpu")
    for height, width in ((1, 1), (7, 30)):
        sr = upscale(backend, Image(pixels(height, width)))
        assert (sr.height, sr.width) == (height * scale, width * scale)
    image = Image(pixels(19, 202))
    whole, tiled = (upscale(backend, image, tile=tile).pixels.astype(int) for tile in (0, 32))
    assert whole.std() > 2
    assert np.abs(tiled - whole).max() <= (3 if name == "RCAN" else 1)  # RCAN pools over the whole image


def test_the_output_equals_the_networks_own(tmp_path: Path, pixels: Pixels) -> None:
    make = NETWORKS["Compact"][0]
    path = save(tmp_path / "theirs.safetensors", make)
    lr = pixels(20, 30).transpose(2, 0, 1).astype(np.float32) / 255
    torch.manual_seed(0)
    with torch.inference_mode():
        expected = make().eval()(torch.from_numpy(lr)[None])[0].clamp(0, 1)
    np.testing.assert_allclose(load_model(path, "cpu")(lr), expected, atol=1e-5)


def test_a_network_for_one_channel_is_applied_to_each_channel(tmp_path: Path, pixels: Pixels) -> None:
    path = save(tmp_path / "gray.pth", lambda: SRVGGNetCompact(num_in_ch=1, num_out_ch=1, num_feat=8, num_conv=2, upscale=2))
    backend = load_model(path, "cpu")
    lr = np.random.default_rng(0).random((3, 9, 8), dtype=np.float32)
    sr = backend(lr)
    for channel in range(3):
        np.testing.assert_allclose(sr[channel], backend(np.repeat(lr[channel : channel + 1], 3, axis=0))[0], atol=1e-6)


def test_the_command_upscales_and_prints_a_note_on_the_license(srcli: Command, photo: Path, tmp_path: Path) -> None:
    path = save(tmp_path / "theirs.pth", NETWORKS["ESRGAN"][0])
    result = srcli("upscale", photo, "-m", path, "--device", "cpu")
    assert result.exit_code == 0
    assert read_image(photo.with_name("photo_x4.png")).width == 160
    assert "theirs.pth is a network of type ESRGAN, loaded with spandrel (MIT)" in result.stderr
    assert "the license of their author" in result.stderr
    assert "--tile 0" not in result.stderr


def test_a_network_that_pools_over_the_image_prints_a_note_on_tiles(srcli: Command, photo: Path, tmp_path: Path) -> None:
    path = save(tmp_path / "theirs.pth", NETWORKS["RCAN"][0])
    assert "tiles may differ in tone; --tile 0" in srcli("upscale", photo, "-m", path, "--device", "cpu").stderr


def test_networks_that_do_not_upscale_single_images_are_rejected(srcli: Command, photo: Path, tmp_path: Path) -> None:
    layers = save(tmp_path / "layers.pth", lambda: SRVGGNetCompact(num_in_ch=4, num_out_ch=4, num_feat=8, num_conv=2))
    torch.save({"weight": torch.zeros(3)}, tmp_path / "unknown.pth")
    save_file({"weight": torch.zeros(3)}, tmp_path / "unknown.safetensors")
    torch.save({"params": weights_with_one_missing()}, tmp_path / "part.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save({"weight": Path("code")}, tmp_path / "code.pth")
    for path, sentence in (
        (layers, "maps 4 channels to 4"),
        (tmp_path / "unknown.pth", "contains no network that srcli or spandrel supports"),
        (tmp_path / "unknown.safetensors", "contains no network that srcli or spandrel supports"),
        (tmp_path / "part.pth", "is damaged or of an unknown type"),
        (tmp_path / "list.pth", "holds a list"),
        (tmp_path / "code.pth", "holds more than weights"),
    ):
        result = srcli("upscale", photo, "-m", path)
        assert result.exit_code == 1
        assert str(path) in result.stderr
        assert sentence in result.stderr
        assert len(result.stderr.splitlines()) == 1


def test_a_network_that_keeps_the_size_runs_at_scale_1_only(srcli: Command, photo: Path, tmp_path: Path) -> None:
    path = save(tmp_path / "denoiser.pth", lambda: RRDBNet(num_filters=8, num_blocks=1, scale=1))
    result = srcli("upscale", photo, "-m", path, "--device", "cpu")
    assert result.exit_code == 0
    sr = read_image(photo.with_name("photo_x1.png")).pixels
    lr = read_image(photo).pixels
    assert sr.shape == lr.shape
    own = load_model(path, "cpu")(lr.transpose(2, 0, 1).astype(np.float32) / 255)
    assert np.abs(sr - own.transpose(1, 2, 0).clip(0, 1) * 255).max() <= 1
    result = srcli("upscale", photo, "-m", path, "--device", "cpu", "--scale", 2)
    assert result.exit_code == 1
    assert "denoiser does not upscale images. Use another model, or --scale 1." in result.stderr


def weights_with_one_missing() -> dict[str, torch.Tensor]:
    weights = NETWORKS["Compact"][0]().state_dict()
    del weights["body.2.bias"]
    return weights


def test_without_spandrel_the_error_says_how_to_install_it(
    srcli: Command, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(tmp_path / "theirs.pth", NETWORKS["Compact"][0])
    monkeypatch.setitem(sys.modules, "spandrel", None)
    result = srcli("upscale", photo, "-m", path)
    assert result.exit_code == 1
    assert "pip install spandrel" in result.stderr


@pytest.mark.parametrize("torchvision", ["missing", "broken", "as it is"])
def test_torchvision_may_be_missing_or_broken(torchvision: str, tmp_path: Path) -> None:
    """In a process of its own, as spandrel is imported only once."""
    path = save(tmp_path / "theirs.pth", NETWORKS["SPAN"][0])
    if torchvision == "broken":
        (tmp_path / "torchvision").mkdir()
        (tmp_path / "torchvision" / "__init__.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    code = "import sys\nfrom pathlib import Path\nsys.path.insert(0, sys.argv[1])\n"
    if torchvision == "missing":
        code += "sys.modules['torchvision'] = None\n"
    code += "from srcli.inference.third_party import load_third_party\nprint(load_third_party(Path(sys.argv[2])).architecture)"
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path), str(path)], check=True, capture_output=True, text=True)
    assert done.stdout == "SPAN\n"
