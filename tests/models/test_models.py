"""The models that ship: they load, run offline, and do better than bicubic on a photograph that no one trained on."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from srcli.core.degradation import bicubic
from srcli.core.metrics import on_luma, psnr
from srcli.errors import ConfigError, SrcliError
from srcli.inference.backend import load_model
from srcli.io.read import read_srgb
from srcli.models.checkpoint import load_generator
from srcli.models.registry import QUALITIES, WEIGHTS, describe_model, select_models, shipped_models
from tests.conftest import EXAMPLES, make_model


def test_there_is_a_faithful_model_for_every_scale_and_a_perceptual_one() -> None:
    assert {"compact-x2", "compact-x3", "compact-x4", "compact-x4-perceptual"} <= set(shipped_models())


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
def test_no_model_shifts_colours_or_leaves_a_pattern_on_flat_areas(name: str) -> None:
    generator = load_generator(name)
    for colour in ((0.2, 0.2, 0.2), (0.9, 0.9, 0.9), (0.8, 0.3, 0.2), (0.2, 0.6, 0.3), (0.3, 0.4, 0.8)):
        flat = torch.tensor(colour).view(1, 3, 1, 1).expand(1, 3, 48, 48)
        halo = generator.halo * generator.scale
        sr = generator(flat)[..., halo:-halo, halo:-halo]
        assert (sr.mean(dim=(0, 2, 3)) - torch.tensor(colour)).abs().max() < 2 / 255
        assert sr.std(dim=(2, 3)).max() < 1 / 255


def test_a_model_file_rebuilds_its_own_generator(tmp_path: Path) -> None:
    generator = load_generator(make_model(tmp_path / "tiny.safetensors", scale=3))
    assert (generator.scale, generator.config.channels, generator.config.blocks) == (3, 8, 2)
    assert not any(weight.requires_grad for weight in generator.parameters())


def test_damaged_weights_are_refused(tmp_path: Path) -> None:
    path = make_model(tmp_path / "tiny.safetensors", scale=3)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(SrcliError, match=str(path)):
        load_generator(path)


def test_names_that_no_model_has_are_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"Did you mean compact-x4"):
        describe_model("compact-x44")


def test_a_quality_is_a_model_for_each_scale() -> None:
    names = {quality: [model.name for model in select_models(quality=quality)] for quality in QUALITIES}
    assert names == {
        "fast": ["compact-x2:int8", "compact-x3:int8", "compact-x4:int8"],
        "balanced": ["compact-x2", "compact-x3", "compact-x4"],
        "best": ["compact-x2:int8+", "compact-x3:int8+", "compact-x4-large:int8+"],
    }
    assert {model.kind for quality in QUALITIES for model in select_models(quality=quality)} == {"faithful"}


def test_naturalness_is_how_far_the_weights_lie_from_the_faithful_to_the_natural() -> None:
    faithful, natural = (load_generator(name).state_dict() for name in ("compact-x4", "compact-x4-perceptual"))
    [half], [all_the_way] = select_models(perceptual=0.5), select_models(perceptual=1)
    assert (half.name, all_the_way.name) == ("compact-x4-perceptual@0.5", "compact-x4-perceptual")
    for name, weight in load_generator(half).state_dict().items():
        torch.testing.assert_close(weight, (faithful[name] + natural[name]) / 2)


@torch.inference_mode()
def test_half_way_to_natural_is_no_worse_than_the_mean_of_both_ends() -> None:
    """That weights may be interpolated at all is no matter of course: two networks trained apart give nonsense half way."""
    hr = torch.from_numpy(read_srgb(EXAMPLES / "photos" / "astronaut.png")).permute(2, 0, 1)[None].float() / 255
    lr = bicubic(hr, 4)
    faithful, half, natural = (
        psnr(*on_luma(load_generator(select_models(perceptual=share)[-1])(lr).clamp(0, 1), hr, border=4)).item()
        for share in (0, 0.5, 1)
    )
    assert faithful > half > (faithful + natural) / 2


@torch.inference_mode()
def test_the_ensemble_is_nearer_to_the_truth() -> None:
    hr = torch.from_numpy(read_srgb(EXAMPLES / "photos" / "astronaut.png")).permute(2, 0, 1)[None].float() / 255
    lr = bicubic(hr, 4)[0].numpy()
    one, all_ways = (
        psnr(*on_luma(torch.from_numpy(load_model(name, "cpu")(lr))[None].clamp(0, 1), hr, border=4)).item()
        for name in ("compact-x4", "compact-x4+")
    )
    assert all_ways > one + 0.03  # dB


@pytest.mark.parametrize("name", [name for name in shipped_models() if describe_model(name).kind == "faithful"])
@torch.inference_mode()
def test_8_bits_cost_less_than_anyone_sees(name: str) -> None:
    scale = describe_model(name).scale
    hr = torch.from_numpy(read_srgb(EXAMPLES / "photos" / "astronaut.png")).permute(2, 0, 1)[None].float() / 255
    hr = hr[..., : 512 - 512 % scale, : 512 - 512 % scale]
    lr = bicubic(hr, scale)[0].numpy()
    full, rounded = (torch.from_numpy(load_model(each, "cpu")(lr))[None].clamp(0, 1) for each in (name, f"{name}:int8"))
    assert psnr(rounded, full).item() > 43  # dB
    cost = psnr(*on_luma(full, hr, border=scale)) - psnr(*on_luma(rounded, hr, border=scale))
    assert -0.02 < cost.item() < 0.06  # dB


def test_what_is_a_way_to_run_a_model_is_no_network() -> None:
    with pytest.raises(SrcliError, match=r"compact-x4:int8 is a way to run compact-x4"):
        load_generator("compact-x4:int8")
    with pytest.raises(SrcliError, match=r"compact-x4\+ is a way to run compact-x4"):
        load_generator("compact-x4+")


def test_names_tell_how_a_model_is_run() -> None:
    model = describe_model("compact-x4:int8+")
    assert (model.int8, model.ensemble, model.name) == (True, True, "compact-x4:int8+")
    assert model.parameters == describe_model("compact-x4").parameters


def test_the_package_stays_small() -> None:
    assert sum(path.stat().st_size for path in WEIGHTS.iterdir()) < 40e6
