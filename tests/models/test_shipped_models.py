"""The shipped models and their names: they load offline and beat bicubic on a photograph that was not used in training."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from srcli.core.degradation import bicubic
from srcli.core.metrics import on_luma, psnr
from srcli.errors import ConfigError, SrcliError
from srcli.inference.backend import load_model
from srcli.io.read import read_srgb
from srcli.models.checkpoint import load_generator
from srcli.models.registry import EFFORTS, WEIGHTS, describe_model, select_models, shipped_models
from tests.conftest import EXAMPLES


def test_there_is_a_faithful_model_for_every_scale_and_a_perceptual_one() -> None:
    assert {"base-x2", "base-x3", "base-x4", "base-x4-perceptual"} <= set(shipped_models())


@pytest.mark.parametrize("name", [name for name in shipped_models() if "perceptual" not in name])
@torch.inference_mode()
def test_a_faithful_model_beats_bicubic_on_an_unseen_photograph(name: str) -> None:
    scale = describe_model(name).scale
    photo = torch.from_numpy(read_srgb(EXAMPLES / "photos" / "astronaut.png")).permute(2, 0, 1)[None].float() / 255
    hr = photo[..., : 512 - 512 % scale, : 512 - 512 % scale]
    lr = bicubic(hr, scale)
    sr = load_generator(name)(lr).clamp(0, 1)
    plain = F.interpolate(lr, size=hr.shape[-2:], mode="bicubic", antialias=True).clamp(0, 1)
    gain = psnr(*on_luma(sr, hr, border=scale)) - psnr(*on_luma(plain, hr, border=scale))
    assert gain.item() > 1.5  # dB


@pytest.mark.parametrize("name", shipped_models())
@torch.inference_mode()
def test_no_model_shifts_colors_or_leaves_a_pattern_on_flat_areas(name: str) -> None:
    generator = load_generator(name)
    for color in ((0.2, 0.2, 0.2), (0.9, 0.9, 0.9), (0.8, 0.3, 0.2), (0.2, 0.6, 0.3), (0.3, 0.4, 0.8)):
        flat = torch.tensor(color).view(1, 3, 1, 1).expand(1, 3, 48, 48)
        halo = generator.halo * generator.scale
        sr = generator(flat)[..., halo:-halo, halo:-halo]
        assert (sr.mean(dim=(0, 2, 3)) - torch.tensor(color)).abs().max() < 2 / 255
        assert sr.std(dim=(2, 3)).max() < 1 / 255


def test_an_unknown_name_is_rejected_with_a_suggestion() -> None:
    with pytest.raises(ConfigError, match=r"Did you mean base-x4"):
        describe_model("base-x44")


def test_a_quality_selects_a_model_for_each_scale() -> None:
    names = {effort: [model.name for model in select_models(effort=effort)] for effort in EFFORTS}
    assert names == {
        "fast": ["tiny-x2:int8", "tiny-x3:int8", "tiny-x4:int8"],
        "balanced": ["base-x2:int8", "base-x3:int8", "base-x4:int8"],
        "best": ["large-x2:int8+", "large-x3:int8+", "large-x4:int8+"],
    }
    assert {model.kind for effort in EFFORTS for model in select_models(effort=effort)} == {"faithful"}


def test_perceptual_interpolates_between_the_faithful_and_the_perceptual_model() -> None:
    faithful, perceptual = (load_generator(name).state_dict() for name in ("base-x4", "base-x4-perceptual"))
    [half], [all_the_way] = select_models(perceptual=0.5), select_models(perceptual=1)
    assert (half.name, all_the_way.name) == ("base-x4-perceptual@0.5:int8", "base-x4-perceptual:int8")
    for name, weight in load_generator(replace(half, int8=False)).state_dict().items():
        torch.testing.assert_close(weight, (faithful[name] + perceptual[name]) / 2)


def test_denoise_interpolates_between_the_faithful_and_the_photo_model() -> None:
    names = {amount: [model.name for model in select_models(denoise=amount)] for amount in (0, 0.5, 1)}
    assert names == {
        0: ["base-x2:int8", "base-x3:int8", "base-x4:int8"],
        0.5: ["base-x2-photo@0.5:int8", "base-x4-photo@0.5:int8"],
        1: ["base-x2-photo:int8", "base-x4-photo:int8"],
    }
    assert not any(model.restores for model in select_models())
    assert all(model.restores for amount in (0.5, 1) for model in select_models(denoise=amount))


def test_perceptual_and_denoise_add_up() -> None:
    [both] = select_models(perceptual=1, denoise=0.5)
    assert both.name == "base-x4-perceptual@1-photo@0.5:int8"
    assert describe_model(both.name) == both
    base, perceptual, photo = (load_generator(name).state_dict() for name in ("base-x4", "base-x4-perceptual", "base-x4-photo"))
    for name, weight in load_generator(replace(both, int8=False)).state_dict().items():
        torch.testing.assert_close(weight, perceptual[name] + (photo[name] - base[name]) / 2)


@pytest.mark.parametrize(
    "name", ["base-x4-perceptual@0.5", "base-x4-photo@0.5", "base-x4-perceptual@1-photo@1", "base-x2-photo@0.5"]
)
@torch.inference_mode()
def test_int8_costs_little_between_models(name: str) -> None:
    scale = describe_model(name).scale
    lr = bicubic(torch.from_numpy(read_srgb(EXAMPLES / "photos" / "astronaut.png")).permute(2, 0, 1)[None].float() / 255, scale)
    full, rounded = (
        torch.from_numpy(load_model(each, "cpu")(lr[0].numpy()))[None].clamp(0, 1) for each in (name, f"{name}:int8")
    )
    assert psnr(rounded, full).item() > 40  # dB


@torch.inference_mode()
def test_interpolated_weights_are_better_than_the_mean_of_both_models() -> None:
    """Weights can be interpolated only because one model was fine-tuned from the other."""
    hr = torch.from_numpy(read_srgb(EXAMPLES / "photos" / "astronaut.png")).permute(2, 0, 1)[None].float() / 255
    lr = bicubic(hr, 4)
    faithful, half, perceptual = (
        psnr(*on_luma(load_generator(describe_model(f"base-x4-perceptual@{weight}"))(lr).clamp(0, 1), hr, border=4)).item()
        for weight in (0, 0.5, 1)
    )
    assert faithful > half > (faithful + perceptual) / 2


@torch.inference_mode()
def test_the_self_ensemble_has_a_higher_psnr() -> None:
    hr = torch.from_numpy(read_srgb(EXAMPLES / "photos" / "astronaut.png")).permute(2, 0, 1)[None].float() / 255
    lr = bicubic(hr, 4)[0].numpy()
    one, all_ways = (
        psnr(*on_luma(torch.from_numpy(load_model(name, "cpu")(lr))[None].clamp(0, 1), hr, border=4)).item()
        for name in ("base-x4", "base-x4+")
    )
    assert all_ways > one + 0.03  # dB


@pytest.mark.parametrize("name", [name for name in shipped_models() if describe_model(name).kind == "faithful"])
@torch.inference_mode()
def test_int8_costs_less_than_is_visible(name: str) -> None:
    scale = describe_model(name).scale
    hr = torch.from_numpy(read_srgb(EXAMPLES / "photos" / "astronaut.png")).permute(2, 0, 1)[None].float() / 255
    hr = hr[..., : 512 - 512 % scale, : 512 - 512 % scale]
    lr = bicubic(hr, scale)[0].numpy()
    full, rounded = (torch.from_numpy(load_model(each, "cpu")(lr))[None].clamp(0, 1) for each in (name, f"{name}:int8"))
    assert psnr(rounded, full).item() > 43  # dB
    cost = psnr(*on_luma(full, hr, border=scale)) - psnr(*on_luma(rounded, hr, border=scale))
    assert -0.02 < cost.item() < 0.06  # dB


def test_a_name_with_suffixes_is_no_network_to_load() -> None:
    with pytest.raises(SrcliError, match=r"base-x4:int8 names a way to run base-x4"):
        load_generator("base-x4:int8")
    with pytest.raises(SrcliError, match=r"base-x4\+ names a way to run base-x4"):
        load_generator("base-x4+")


def test_suffixes_of_a_name_say_how_a_model_is_run() -> None:
    model = describe_model("base-x4:int8+")
    assert (model.int8, model.ensemble, model.name) == (True, True, "base-x4:int8+")
    assert model.parameters == describe_model("base-x4").parameters


@pytest.mark.parametrize("name", ["base-x4-perceptual@0.25", "base-x4:int8+", "base-x4-perceptual@0.5:int8+"])
def test_the_name_of_a_model_describes_it_again(name: str) -> None:
    assert describe_model(name).name == name
    assert describe_model(describe_model(name).name) == describe_model(name)


@pytest.mark.parametrize("weight", ["2", "-0.1", "half", "nan"])
def test_a_blend_weight_that_is_no_share_is_rejected(weight: str) -> None:
    with pytest.raises(ConfigError, match="must be a number from 0 to 1"):
        describe_model(f"base-x4-perceptual@{weight}")


def test_amounts_out_of_range_are_rejected() -> None:
    with pytest.raises(ConfigError, match=r"`perceptual` is 1\.5"):
        select_models(perceptual=1.5)
    with pytest.raises(ConfigError, match="`denoise` is -1"):
        select_models(denoise=-1)


def test_the_package_stays_small() -> None:
    assert sum(path.stat().st_size for path in WEIGHTS.iterdir()) < 60e6
