"""Comparisons against independent implementations, tiles against the whole image, and the output of the command."""

import csv
import io
import json
import math
import re
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as PILImage
from skimage.metrics import mean_squared_error, peak_signal_noise_ratio, structural_similarity
from torchvision_cpu import declare_operators

import srcli.evaluation.compare as compare_module
from srcli.config import VGG_LAYERS, Distance, LossConfig
from srcli.core.losses import WeightedLoss
from srcli.core.vgg import VGG16Features
from srcli.core.vgg_layers import LAYERS
from srcli.errors import SrcliError
from srcli.evaluation.compare import TILE_PIXELS, Comparer, Comparison, compare, tile_shape
from srcli.evaluation.comparison_page import as_page
from srcli.evaluation.images import ComparisonImage
from srcli.evaluation.regions import worst_regions
from srcli.io.image import Image
from srcli.io.read import read_image
from srcli.io.tiles import tiles
from srcli.io.write import write_image
from srcli.models.checkpoint import load_vgg_weights
from srcli.models.perceptual import FeatureLoss
from tests.conftest import EXAMPLES, CommandResult, dom_of, needs_browser

Command = Callable[..., CommandResult]
Pixels = Callable[..., np.ndarray]

PHOTO = EXAMPLES / "photos" / "chelsea.png"
ALL = LossConfig(pixel=1, feature=1, layers=dict.fromkeys(VGG_LAYERS, 1.0))


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """A photograph, 131x97, and a noisy copy."""
    true = read_image(PHOTO).pixels[100:197, 150:281]
    noise = np.random.default_rng(0).normal(0, 12, true.shape)
    reference, candidate = tmp_path / "true.png", tmp_path / "noisy.png"
    write_image(Image(true), reference)
    write_image(Image(np.clip(true + noise, 0, 255).astype(np.uint8)), candidate)
    return reference, candidate


def floats(path: Path) -> np.ndarray:
    with PILImage.open(path) as file:
        return np.array(file.convert("RGB")).astype(np.float64) / 255


def test_equal_images_have_no_difference(pair: tuple[Path, Path]) -> None:
    result = compare(pair[0], pair[0], loss=ALL)
    assert set(result.layers.values()) == {0.0}
    assert (result.pixel, result.feature, result.total) == (0.0, 0.0, 0.0)
    assert result.psnr == result.psnr_y == math.inf
    assert result.ssim == pytest.approx(1, abs=1e-12)


def test_pixel_metrics_equal_those_of_scikit_image(pair: tuple[Path, Path]) -> None:
    result = compare(*pair)
    hr, sr = (floats(path) for path in pair)
    weights = np.array([65.481, 128.553, 24.966]) / 255
    luma_hr, luma_sr = 16 / 255 + hr @ weights, 16 / 255 + sr @ weights
    options = {"data_range": 1, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    assert result.pixel == pytest.approx(mean_squared_error(hr, sr), rel=1e-5)
    assert result.psnr == pytest.approx(peak_signal_noise_ratio(hr, sr, data_range=1), abs=1e-4)
    assert result.psnr_y == pytest.approx(peak_signal_noise_ratio(luma_hr, luma_sr, data_range=1), abs=1e-4)
    assert result.ssim == pytest.approx(structural_similarity(hr, sr, channel_axis=2, **options), abs=1e-5)
    assert result.ssim_y == pytest.approx(structural_similarity(luma_hr, luma_sr, **options), abs=1e-5)


@torch.inference_mode()
def test_layers_are_the_squared_feature_distances_of_the_whole_image(pair: tuple[Path, Path]) -> None:
    """tests/core/test_vgg.py compares the features themselves with torchvision."""
    result = compare(*pair, loss=ALL)
    weights = load_vgg_weights()
    vgg = VGG16Features(VGG_LAYERS, weights)
    hr, sr = (vgg(torch.from_numpy(floats(path)).permute(2, 0, 1)[None].float()) for path in pair)
    for layer in VGG_LAYERS:
        expected = ((sr[layer] - hr[layer]) ** 2).mean().item() / weights.feature_scales[layer] ** 2
        assert result.layers[layer] == pytest.approx(expected, rel=1e-4), layer
    assert result.feature == pytest.approx(sum(result.layers.values()))
    assert result.total == pytest.approx(result.pixel + result.feature)


@torch.inference_mode()
@pytest.mark.parametrize("distance", ["squared", "absolute"])
def test_the_total_is_what_training_minimizes(pair: tuple[Path, Path], distance: Distance) -> None:
    config = LossConfig(
        pixel=2, l1=0.5, charbonnier=0.3, feature=0.1, tv=0.2, layers={"relu1_2": 3, "relu2_2": 1}, distance=distance
    )
    hr, sr = (torch.from_numpy(floats(path)).permute(2, 0, 1)[None].float() for path in pair)
    trained = WeightedLoss(config, FeatureLoss(config.layers, distance=distance), scale=4)(sr, hr)
    result = compare(*pair, loss=config)
    assert result.total == pytest.approx(trained.total.item(), rel=1e-5)
    assert result.terms == pytest.approx({name: trained.terms[name].item() for name in ("l1", "charbonnier", "tv")}, rel=1e-5)


@pytest.mark.parametrize("size", [(8, 8), (816, 1225), (4000, 6000), (10_000, 10_000), (3, 500_000), (70_000, 20)])
def test_tiles_are_small_enough_and_overlap_little(size: tuple[int, int]) -> None:
    shape = tile_shape(*size, halo=64, stride=16, max_pixels=TILE_PIXELS)
    all_tiles = list(tiles(*size, tile=shape, halo=64))
    seen = [math.prod(part.stop - part.start for part in tile.outer) for tile in all_tiles]
    assert max(seen) <= TILE_PIXELS
    assert sum(seen) <= 1.35 * math.prod(size)
    for tile in all_tiles:
        assert all(part.start % 16 == 0 for part in tile.outer)


@pytest.mark.parametrize("size", [(211, 333), (95, 451)])
def test_tiles_give_the_result_of_the_whole_image(monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]) -> None:
    true = read_image(PHOTO).pixels[: size[0], : size[1]]
    noisy = np.clip(true + np.random.default_rng(1).normal(0, 20, true.shape), 0, 255).astype(np.uint8)
    images = ComparisonImage("true", true), ComparisonImage("noisy", noisy)
    comparer = Comparer(ALL)
    whole = comparer.compare(images[0], [images[1]], maps=True)[0]
    monkeypatch.setattr(compare_module, "TILE_PIXELS", 200 * 200)
    monkeypatch.setattr("srcli.evaluation.images.STRIP_ROWS", 16)
    calls: list[int] = []
    comparer.vgg.register_forward_hook(lambda *_: calls.append(1))
    tiled = comparer.compare(images[0], [images[1]], maps=True)[0]
    assert len(calls) >= 4, "two tiles of two images"
    for name in ("pixel", "psnr", "ssim", "psnr_y", "ssim_y", "total"):
        assert getattr(tiled, name) == pytest.approx(getattr(whole, name), rel=1e-4), name
    for layer in VGG_LAYERS:
        assert tiled.layers[layer] == pytest.approx(whole.layers[layer], rel=1e-4), layer
        np.testing.assert_allclose(tiled.maps[layer], whole.maps[layer], rtol=1e-2, atol=1e-4)


def test_the_mean_of_a_map_is_the_metric_in_the_table(pair: tuple[Path, Path]) -> None:
    result = compare(*pair, loss=ALL, maps=True)
    assert set(result.maps) == {"pixel", *VGG_LAYERS}
    assert result.maps["pixel"].shape == (97, 131)
    assert result.maps["pixel"].mean(dtype=np.float64) == pytest.approx(result.pixel)
    for layer, value in result.layers.items():
        assert result.maps[layer].shape == (97 // LAYERS[layer].stride, 131 // LAYERS[layer].stride)
        assert result.maps[layer].mean(dtype=np.float64) == pytest.approx(value)


def test_the_worst_region_is_where_the_damage_is() -> None:
    true = read_image(PHOTO).pixels[:256, :320]
    damaged = true.copy()
    damaged[130:180, 200:250] = 255 - damaged[130:180, 200:250]
    result = Comparer(LossConfig(pixel=1, feature=0.01, layers={"relu2_2": 1.0})).compare(
        ComparisonImage("true", true), [ComparisonImage("damaged", damaged)], maps=True
    )[0]
    regions = worst_regions(result)
    assert len(regions) == 5
    first = regions[0]
    assert first.left <= 200 + 16
    assert first.left + first.width >= 250 - 16
    assert first.top <= 130 + 16
    assert first.top + first.height >= 180 - 16
    assert [region.total for region in regions] == sorted((region.total for region in regions), reverse=True)
    for one in regions:
        for other in regions:
            apart = abs(one.left - other.left) >= 64 or abs(one.top - other.top) >= 64
            assert one is other or apart


def test_any_kind_of_image_is_converted_to_srgb(tmp_path: Path) -> None:
    color = PILImage.fromarray(np.full((20, 24, 3), (200, 60, 40), dtype=np.uint8))
    color.save(tmp_path / "rgb.png")
    color.quantize(8).save(tmp_path / "palette.png")
    write_image(Image(np.array(color).astype(np.uint16) * 257), tmp_path / "deep.png")
    exif = PILImage.Exif()
    exif[0x0112] = 6
    color.rotate(90, expand=True).save(tmp_path / "rotated.png", exif=exif)
    loss = LossConfig(pixel=1, feature=1, layers={"relu1_2": 1.0})
    for name in ("palette.png", "deep.png", "rotated.png"):
        assert compare(tmp_path / "rgb.png", tmp_path / name, loss=loss).pixel < 1e-9, name
    gray = PILImage.new("L", (20, 24), 99)
    gray.save(tmp_path / "gray.png")
    gray.convert("RGB").save(tmp_path / "gray_rgb.png")
    assert compare(tmp_path / "gray.png", tmp_path / "gray_rgb.png", loss=loss).total == 0


def test_16_bit_images_are_compared_in_16_bits(tmp_path: Path) -> None:
    deep = np.full((16, 16, 3), 30_000, dtype=np.uint16)
    write_image(Image(deep), tmp_path / "one.png")
    write_image(Image(deep + 10), tmp_path / "other.png")
    assert compare(tmp_path / "one.png", tmp_path / "other.png").pixel == pytest.approx((10 / 65_535) ** 2, rel=1e-2)


def test_transparency_is_blended_with_the_background_and_compared_as_alpha(tmp_path: Path) -> None:
    clear = np.zeros((16, 16, 4), dtype=np.uint8)
    clear[..., 0] = 255
    write_image(Image(clear), tmp_path / "clear.png")
    write_image(Image(np.full((16, 16, 3), 255, dtype=np.uint8)), tmp_path / "white.png")
    over_white = compare(tmp_path / "clear.png", tmp_path / "white.png")
    assert (over_white.pixel, over_white.alpha) == (0.0, 1.0)
    assert compare(tmp_path / "clear.png", tmp_path / "white.png", background=(0, 0, 0)).pixel == 1.0
    assert math.isnan(compare(tmp_path / "white.png", tmp_path / "white.png").alpha)


def test_images_that_are_too_small_or_differ_in_size_are_rejected(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    write_image(Image(np.zeros((5, 7, 3), dtype=np.uint8)), tmp_path / "tiny.png")
    with pytest.raises(SrcliError, match="7x5 pixels; relu4_3 needs at least 8x8"):
        compare(tmp_path / "tiny.png", tmp_path / "tiny.png")
    assert math.isnan(
        compare(tmp_path / "tiny.png", tmp_path / "tiny.png", loss=LossConfig(feature=1, layers={"relu1_1": 1})).ssim
    )
    with pytest.raises(SrcliError, match=r"is 131x97 pixels and .* is 7x5; .*`resize_to=reference`"):
        compare(pair[0], tmp_path / "tiny.png")


# The command


def test_one_candidate_prints_a_table(srcli: Command, pair: tuple[Path, Path]) -> None:
    outcome = srcli("compare-loss", *pair, "--layers", "johnson")
    assert (outcome.exit_code, outcome.stderr) == (0, "")
    assert [line.split()[0] for line in outcome.stdout.splitlines()[:9]] == [
        "candidate", "pixel", "relu2_2", "feature", "total", "psnr", "ssim", "psnr_y", "ssim_y",
    ]  # fmt: skip
    assert "VGG16: oxford" in outcome.stdout
    assert "no border cropped" in outcome.stdout


def test_one_candidate_is_shown_next_to_bicubic_interpolation(srcli: Command, pair: tuple[Path, Path], tmp_path: Path) -> None:
    true = Image(read_image(PHOTO).pixels[:96, :128])
    small = PILImage.fromarray(true.pixels).resize((32, 24), PILImage.Resampling.BICUBIC)
    write_image(true, tmp_path / "hr.png")
    small.resize((128, 96), PILImage.Resampling.BICUBIC).save(tmp_path / "pillow.png")
    lines = srcli("compare-loss", tmp_path / "hr.png", tmp_path / "pillow.png").stdout.splitlines()
    rows = {words[0]: [float(word) for word in words[1:3]] for words in (line.split() for line in lines[1:9])}
    assert rows["psnr"][0] == pytest.approx(rows["psnr"][1], abs=0.05)
    assert rows["relu4_3"][0] == pytest.approx(rows["relu4_3"][1], rel=0.02)


def test_a_border_can_be_cropped(srcli: Command, pair: tuple[Path, Path], tmp_path: Path) -> None:
    cropped = [tmp_path / f"{number}.png" for number in range(2)]
    for path, target in zip(pair, cropped, strict=True):
        write_image(Image(read_image(path).pixels[4:-4, 4:-4]), target)
    document = json.loads(srcli("compare-loss", *pair, "--crop-border", 4, "--json").stdout)
    assert document["crop_border"] == 4
    assert (
        document["pairs"][0]["figures"] == json.loads(srcli("compare-loss", *cropped, "--json").stdout)["pairs"][0]["figures"]
    )
    assert "a border of 4 pixels cropped" in srcli("compare-loss", *pair, "--crop-border", 4).stdout
    nothing = srcli("compare-loss", *pair, "--crop-border", 60)
    assert nothing.exit_code == 1
    assert "nothing is left after cropping 60 from each side" in nothing.stderr


def test_luma_only(srcli: Command, pair: tuple[Path, Path]) -> None:
    both, luma = (
        json.loads(srcli("compare-loss", *pair, *words, "--json").stdout)["pairs"][0]["figures"] for words in ((), ("--luma",))
    )
    assert (luma["psnr"], luma["ssim"]) == (both["psnr_y"], both["ssim_y"])
    assert "psnr_y" not in luma
    table = srcli("compare-loss", *pair, "--luma").stdout
    assert re.search(r"^psnr .* dB, luma$", table, re.MULTILINE)


def test_the_precision_of_vgg_can_be_chosen(srcli: Command, pair: tuple[Path, Path]) -> None:
    exact, rough = (
        json.loads(srcli("compare-loss", *pair, "--device", "cpu", "--precision", name, "--json").stdout)["pairs"][0]["figures"]
        for name in ("fp32", "bf16")
    )
    assert exact["psnr"] == rough["psnr"]
    assert exact["relu4_3"] != rough["relu4_3"] == pytest.approx(exact["relu4_3"], rel=0.05)


@pytest.mark.gpu
def test_cpu_and_gpu_agree(pair: tuple[Path, Path]) -> None:
    cpu, gpu = (compare(*pair, loss=ALL, device=device) for device in ("cpu", "cuda"))
    assert cpu.layers == pytest.approx(gpu.layers, rel=1e-4)
    assert (cpu.psnr, cpu.ssim, cpu.pixel) == pytest.approx((gpu.psnr, gpu.ssim, gpu.pixel), rel=1e-4)


def test_json_has_full_precision(srcli: Command, pair: tuple[Path, Path]) -> None:
    words = ["--loss", "pixel=2,feature=0.5", "--layers", "relu1_2=3,relu2_2"]
    outcome = srcli("compare-loss", *pair, *words, "--json")
    document = json.loads(outcome.stdout)
    figures = document["pairs"][0]["figures"]
    assert (outcome.exit_code, outcome.stderr, document["version"]) == (0, "", 1)
    expected = compare(*pair, loss=LossConfig(pixel=2, feature=0.5, layers={"relu1_2": 3, "relu2_2": 1}))
    assert figures["total"] == expected.total == 2 * figures["pixel"] + 0.5 * (3 * figures["relu1_2"] + figures["relu2_2"])
    equal = json.loads(srcli("compare-loss", pair[0], pair[0], "--json").stdout)["pairs"][0]["figures"]
    assert (equal["psnr"], equal["pixel"], equal["relu4_3"]) == ("inf", 0.0, 0.0)


def test_csv_has_a_row_per_candidate(srcli: Command, pair: tuple[Path, Path]) -> None:
    rows = list(csv.DictReader(io.StringIO(srcli("compare-loss", pair[0], pair[1], pair[0], "--csv").stdout)))
    assert [row["candidate"] for row in rows] == [str(pair[1]), str(pair[0])]
    assert float(rows[0]["pixel"]) == compare(*pair).pixel
    assert rows[1]["psnr"] == "inf"


def test_several_candidates_have_a_row_each_and_the_best_values_a_star(
    srcli: Command, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    worse = tmp_path / "worse.png"
    write_image(Image(255 - read_image(pair[0]).pixels), worse)
    lines = srcli("compare-loss", pair[0], worse, pair[1]).stdout.splitlines()
    assert "*" not in lines[1]
    assert lines[2].count("*") == len(lines[0].split()) - 1


def test_folders_are_paired_by_name_with_a_summary(srcli: Command, pair: tuple[Path, Path], tmp_path: Path) -> None:
    true, other = tmp_path / "true", tmp_path / "other"
    for number, quality in enumerate((30, 60, 90)):
        image = read_image(pair[0])
        write_image(image, true / f"{number}.png")
        other.mkdir(exist_ok=True)
        PILImage.fromarray(image.pixels).save(other / f"{number}.jpg", quality=quality)
    document = json.loads(srcli("compare-loss", true, other, "--json").stdout)
    psnrs = [entry["figures"]["psnr"] for entry in document["pairs"]]
    assert document["summary"]["mean"]["psnr"] == pytest.approx(sum(psnrs) / 3)
    assert document["summary"]["median"]["psnr"] == sorted(psnrs)[1]
    assert document["summary"]["worst"]["psnr"] == min(psnrs)
    assert document["summary"]["worst"]["pixel"] == max(entry["figures"]["pixel"] for entry in document["pairs"])
    (other / "0.jpg").unlink()
    rejected = srcli("compare-loss", true, other)
    assert (rejected.exit_code, rejected.stdout) == (1, "")
    assert f"{true / '0.png'} has no counterpart in {other}" in rejected.stderr
    allowed = srcli("compare-loss", true, other, "--allow-missing")
    assert allowed.exit_code == 0
    assert len([line for line in allowed.stdout.splitlines() if line.startswith(str(true))]) == 2


def test_a_bad_image_in_a_folder_is_reported_and_the_others_are_compared(
    srcli: Command, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    for folder in ("true", "other"):
        for name in ("good.png", "bad.png"):
            write_image(read_image(pair[0]), tmp_path / folder / name)
    (tmp_path / "other" / "bad.png").write_text("not an image")
    outcome = srcli("compare-loss", tmp_path / "true", tmp_path / "other", "--csv")
    assert outcome.exit_code == 1
    assert len(outcome.stdout.splitlines()) == 2
    assert f"{tmp_path / 'other' / 'bad.png'} is not an image" in outcome.stderr


def test_a_pair_of_different_sizes_in_folders_is_named_and_the_others_are_compared(
    srcli: Command, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    for folder in ("true", "other"):
        for name in ("good.png", "wrong.png"):
            write_image(read_image(pair[0]), tmp_path / folder / name)
    write_image(Image(np.zeros((50, 50, 3), np.uint8)), tmp_path / "other" / "wrong.png", overwrite=True)
    outcome = srcli("compare-loss", tmp_path / "true", tmp_path / "other", "--csv")
    assert outcome.exit_code == 1
    assert len(outcome.stdout.splitlines()) == 2
    assert f"{tmp_path / 'other' / 'wrong.png'} is 50x50" in outcome.stderr


@pytest.mark.parametrize("suffix", ["_x4", "_1920x1080"])
@pytest.mark.parametrize("side", ["true", "other"])
def test_folders_are_paired_by_name_without_the_suffix_of_a_result(
    srcli: Command, pair: tuple[Path, Path], tmp_path: Path, suffix: str, side: str
) -> None:
    for folder in ("true", "other"):
        for name in ("a", "b"):
            write_image(read_image(pair[0]), tmp_path / folder / f"{name}{suffix if side == folder else ''}.png")
    rows = srcli("compare-loss", tmp_path / "true", tmp_path / "other", "--csv").stdout.splitlines()
    assert len(rows) == 3
    assert all(Path(row.split(",")[0]).name[0] == Path(row.split(",")[1]).name[0] for row in rows[1:])


def test_maps_and_an_index_of_pages_for_folders(srcli: Command, pair: tuple[Path, Path], tmp_path: Path) -> None:
    true, other, page, maps = (tmp_path / name for name in ("true", "other", "page.html", "maps"))
    for name, path in (("same.png", pair[0]), ("below/noisy.png", pair[1])):
        write_image(read_image(pair[0]), true / name)
        write_image(read_image(path), other / name)
    words = ["compare-loss", true, other, "--html", page, "--map", maps]
    assert srcli(*words).exit_code == 0
    assert sorted(str(path.relative_to(maps)) for path in maps.rglob("*.png")) == ["below/noisy.png", "same.png"]
    index = page.read_text()
    links = re.findall(r'href="([^"]+)"', index)
    assert links[0] == "page/below/noisy.png.html"  # the worst first
    assert set(links) == {"page/below/noisy.png.html", "page/same.png.html"}
    assert all((tmp_path / link).is_file() for link in links)
    again = srcli(*words)
    assert again.exit_code == 1
    assert "already exists" in again.stderr
    assert srcli(*words, "--overwrite").exit_code == 0


@pytest.fixture
def _torchvision() -> None:
    if not declare_operators():
        pytest.skip("torchvision is not installed")


@cache
def untrained(make: Callable[..., torch.nn.Module]) -> torch.nn.Module:
    """A network with random weights, which take seconds to make. Its classifier, most of it, is not used."""
    torch.manual_seed(0)
    network = make(weights=None)
    network.classifier = torch.nn.Identity()
    return network


@pytest.fixture
def _random_backbones(_torchvision: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Random weights in the place of those that torchvision downloads."""
    from torchvision import models

    for name in ("alexnet", "vgg16"):
        make = getattr(models, name)
        for module in ("torchvision.models", "torchmetrics.functional.image.lpips", "torchmetrics.functional.image.dists"):
            monkeypatch.setattr(f"{module}.{name}", lambda *_, make=make, **__: untrained(make), raising=False)


@pytest.mark.usefixtures("_random_backbones")
def test_lpips_and_dists_are_computed_by_torchmetrics(srcli: Command, pair: tuple[Path, Path]) -> None:
    from torchmetrics.functional.image import deep_image_structure_and_texture_similarity as dists
    from torchmetrics.functional.image import learned_perceptual_image_patch_similarity as lpips

    outcome = srcli("compare-loss", *pair, "--metrics", "lpips,dists", "--json", "--max", "lpips=9")
    figures = json.loads(outcome.stdout)["pairs"][0]["figures"]
    images = [torch.from_numpy(floats(path)).float().permute(2, 0, 1)[None] for path in reversed(pair)]
    assert figures["lpips"] == pytest.approx(lpips(*images, net_type="alex", normalize=True).item(), rel=1e-4)
    assert figures["dists"] == pytest.approx(dists(*images).item(), rel=1e-4)
    same = json.loads(srcli("compare-loss", pair[0], pair[0], "--metrics", "lpips,dists", "--json").stdout)["pairs"][0][
        "figures"
    ]
    assert same["lpips"] == pytest.approx(0, abs=1e-6)
    assert same["dists"] == pytest.approx(0, abs=1e-5)


@pytest.mark.usefixtures("_random_backbones")
@pytest.mark.parametrize(("side", "failed"), [(30, True), (31, False)])
def test_images_too_small_for_lpips_are_named(srcli: Command, tmp_path: Path, side: int, failed: bool) -> None:
    PILImage.new("RGB", (40, side)).save(tmp_path / "small.png")
    outcome = srcli("compare-loss", tmp_path / "small.png", tmp_path / "small.png", "--metrics", "lpips")
    assert outcome.exit_code == failed
    assert ("lpips needs images of at least 31x31 pixels, and this one has 40x30." in outcome.stderr) == failed
    outcome = srcli("compare-loss", tmp_path, tmp_path, "--metrics", "lpips")
    assert (f"{tmp_path / 'small.png'}: lpips needs" in outcome.stderr) == failed


@pytest.mark.usefixtures("_torchvision")
@pytest.mark.parametrize("name", ["lpips", "dists"])
def test_missing_weights_of_learned_metrics_are_reported(
    name: str, srcli: Command, pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: (_ for _ in ()).throw(OSError("no connection")))
    monkeypatch.setattr("torch.hub.urlopen", lambda *_, **__: (_ for _ in ()).throw(OSError("no connection")))
    outcome = srcli("compare-loss", *pair, "--metrics", name, "--json")
    assert outcome.exit_code == 1
    assert outcome.stdout == ""
    assert f"The weights of {name} could not be downloaded (no connection)." in outcome.stderr
    assert str(tmp_path / "hub") in outcome.stderr


def test_a_torchvision_that_does_not_match_torch_is_reported(
    srcli: Command, pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torchmetrics.image", None)
    outcome = srcli("compare-loss", *pair, "--metrics", "lpips")
    assert outcome.exit_code == 1
    assert "lpips needs torchmetrics and a torchvision that matches torch" in outcome.stderr


def test_a_missed_limit_is_reported_and_exits_with_3(srcli: Command, pair: tuple[Path, Path]) -> None:
    assert srcli("compare-loss", *pair, "--min", "psnr=20", "--max", "pixel=0.1").exit_code == 0
    missed = srcli("compare-loss", *pair, "--min", "psnr=90", "--max", "relu4_3=0")
    assert missed.exit_code == 3
    assert "psnr is" in missed.stderr
    assert "below the limit of 90" in missed.stderr
    assert "relu4_3 is" in missed.stderr
    assert "above the limit of 0" in missed.stderr
    assert srcli("compare-loss", *pair, "--min", "psnrr=90").exit_code == 2


def test_a_bicubic_baseline_is_added(srcli: Command, tmp_path: Path) -> None:
    true = read_image(PHOTO).pixels[:96, :128]
    small = np.array(PILImage.fromarray(true).resize((32, 24), PILImage.Resampling.BICUBIC))
    write_image(Image(true), tmp_path / "true.png")
    write_image(Image(small), tmp_path / "small.png")
    PILImage.fromarray(small).resize((128, 96), PILImage.Resampling.BICUBIC).save(tmp_path / "pillow.png")
    words = [
        tmp_path / "true.png",
        tmp_path / "pillow.png",
        "--baseline",
        "bicubic",
        "--small",
        tmp_path / "small.png",
        "--json",
    ]
    ours, baseline = json.loads(srcli("compare-loss", *words).stdout)["pairs"]
    old = srcli("compare-loss", *("--lr" if word == "--small" else word for word in words))
    assert json.loads(old.stdout)["pairs"] == [ours, baseline]
    assert "--lr is now called --small" in old.stderr
    assert baseline["candidate"] == "bicubic"
    assert baseline["figures"]["psnr"] == pytest.approx(ours["figures"]["psnr"], abs=0.05)


def test_images_of_different_sizes_can_be_resized_or_cropped(srcli: Command, pair: tuple[Path, Path], tmp_path: Path) -> None:
    larger = np.pad(read_image(pair[0]).pixels, [(0, 3), (0, 5), (0, 0)])
    write_image(Image(larger), tmp_path / "larger.png")
    words = ["compare-loss", pair[0], tmp_path / "larger.png"]
    refused = srcli(*words)
    assert refused.exit_code == 1
    assert "131x97" in refused.stderr
    assert "136x100" in refused.stderr
    cropped = json.loads(srcli(*words, "--crop-to-common", "--json").stdout)["pairs"][0]
    assert (cropped["width"], cropped["height"], cropped["figures"]["pixel"]) == (131, 97, 0.0)
    resized = json.loads(srcli(*words, "--resize-to", "candidate", "--json").stdout)["pairs"][0]
    assert (resized["width"], resized["height"]) == (136, 100)
    assert resized["figures"]["pixel"] > 0


def test_map_and_page_do_not_replace_files_without_overwrite(srcli: Command, pair: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ["compare-loss", *pair, "--layers", "gatys", "--map", out / "map.png", "--html", out / "page.html"]
    assert srcli(*words).exit_code == 0
    with PILImage.open(out / "map.png") as file:
        assert file.width >= 6 * 360
    page = (out / "page.html").read_text()
    assert "http" not in page
    assert page.count("data:image/png;base64,") >= 2 + 6 + 2
    assert sorted(path.name for path in out.iterdir()) == ["map.png", "page.html"]
    again = srcli(*words)
    assert (again.exit_code, again.stdout) == (1, "")
    assert "already exists" in again.stderr
    assert srcli(*words, "--overwrite").exit_code == 0


@pytest.mark.parametrize("option", ["--map", "--html"])
@pytest.mark.parametrize(("name", "sentence"), [("", "is a folder"), ("true.png/page", "Cannot write")])
def test_a_map_or_page_that_cannot_be_written_is_rejected_before_the_work(
    srcli: Command, pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, option: str, name: str, sentence: str
) -> None:
    monkeypatch.setattr(Comparer, "__init__", lambda *_: pytest.fail("VGG16 was loaded"))
    outcome = srcli("compare-loss", *pair, option, pair[0].parent / name)
    assert (outcome.exit_code, outcome.stdout) == (1, "")
    assert sentence in outcome.stderr


@needs_browser
def test_the_page_works_in_a_browser(srcli: Command, pair: tuple[Path, Path], tmp_path: Path) -> None:
    """Move the slider, select another map, and check the page."""
    path = tmp_path / "page.html"
    assert srcli("compare-loss", *pair, "--layers", "relu1_2,relu2_2", "--html", path).exit_code == 0
    acts = """<script>
      const act = (where, value, event) => {
        const element = document.querySelector(where);
        element.value = value;
        element.dispatchEvent(new Event(event));
      };
      const before = document.getElementById("heat").src;
      act(".cut", "25", "input");
      act("#map", "relu2_2", "change");
      const failed = [...document.images].filter(image => image.complete && image.naturalWidth === 0).length;
      document.title = [
        document.querySelector(".slider").style.getPropertyValue("--cut"),
        document.getElementById("heat").src !== before,
        document.getElementById("end").textContent === maps.relu2_2.end,
        document.querySelectorAll("svg rect").length,
        failed,
        document.documentElement.scrollWidth <= window.innerWidth,
      ].join(" ");
    </script>"""
    path.write_text(path.read_text().replace("</body>", acts + "</body>"))
    dom = dom_of(path)
    regions = len(worst_regions(compare(*pair, loss=LossConfig(feature=1, layers={"relu1_2": 1, "relu2_2": 1}), maps=True)))
    assert f"<title>25% true true {regions} 0 true</title>" in dom


def test_names_are_escaped_on_the_page(pair: tuple[Path, Path]) -> None:
    images = [ComparisonImage("<script>$x", read_image(path).pixels) for path in pair]
    result: Comparison = Comparer().compare(images[0], images[1:], maps=True)[0]
    assert "<script>$x" not in as_page(result, images[0].pixels, images[1].pixels)


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["--layers", "relu4_4"], 2, "Did you mean relu4_"),
        (["--loss", "pixel=-1"], 2, "at least 0"),
        (["--loss", "texture=1"], 2, "leave out texture"),
        (["--loss", "grid=1"], 2, "leave out grid"),
        (["--loss", "frequency=1"], 2, "leave out frequency"),
        (["--json", "--csv"], 2, "exclude each other"),
        (["--metrics", "lpis"], 2, "Did you mean lpips?"),
        (["--resize-to", "both"], 2, "choose reference or candidate"),
        (["--resize-to", "candidate", "--crop-to-common"], 2, "exclude each other"),
        (["--distance", "cubic"], 2, "choose squared or absolute"),
        (["--baseline", "nearest"], 2, "Unknown baseline 'nearest'; the only supported value is bicubic"),
        (["--baseline", "bicubic"], 2, "must be given together"),
        (["--background", "blu"], 2, "no color 'blu'"),
        (
            ["--max-pixels", "1000"],
            1,
            "131x97 = 12707 pixels, more than the limit of 1000. ",
        ),
        (["--vgg", "missing.pth"], 1, "Cannot read missing.pth"),
        (["missing.png"], 1, "Cannot read missing.png"),
        (["--html", "page.html", "another.png"], 2, "take one candidate, or two folders"),
    ],
)
def test_invalid_usage_is_reported_in_one_sentence(
    srcli: Command, pair: tuple[Path, Path], words: list[str], code: int, sentence: str
) -> None:
    outcome = srcli("compare-loss", *pair, *words)
    assert (outcome.exit_code, outcome.stdout) == (code, "")
    assert sentence in outcome.stderr
    assert len(outcome.stderr.splitlines()) == 1


def test_float_images_without_a_known_white_are_rejected(srcli: Command, pair: tuple[Path, Path], tmp_path: Path) -> None:
    PILImage.fromarray(np.full((97, 131), np.nan, dtype=np.float32)).save(tmp_path / "nan.tif")
    outcome = srcli("compare-loss", pair[0], tmp_path / "nan.tif")
    assert outcome.exit_code == 1
    assert "has float values from nan to nan; only 0 to 1 is supported" in outcome.stderr
