"""VGG16 features, compared with torchvision's network with the same weights."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision_cpu import declare_operators

from srcli.config import LAYER_PRESETS, VGG_LAYERS
from srcli.core.vgg import OXFORD_INPUT, VGG16Features, VGGWeights
from srcli.core.vgg_layers import LAYERS
from srcli.errors import SrcliError
from srcli.models.checkpoint import load_vgg_weights


@pytest.fixture(scope="module")
def weights() -> VGGWeights:
    return load_vgg_weights()


@pytest.fixture(scope="module")
def torchvision_features(weights: VGGWeights) -> nn.Sequential:
    """torchvision's vgg16().features with the shipped weights, its ReLUs not in place."""
    if not declare_operators():
        pytest.skip("torchvision is not installed")
    from torchvision.models import vgg16

    features = vgg16(weights=None).features[:25]
    features.load_state_dict({name.removeprefix("features."): tensor.float() for name, tensor in weights.tensors.items()})
    for module in features:
        if isinstance(module, nn.ReLU):
            module.inplace = False
    return features.eval()


def normalized(image: Tensor) -> Tensor:
    return image * 255 - torch.tensor([123.68, 116.779, 103.939]).view(3, 1, 1)


@torch.inference_mode()
def test_every_layer_equals_torchvisions(weights: VGGWeights, torchvision_features: nn.Sequential) -> None:
    image = torch.rand(2, 3, 48, 40)
    ours = VGG16Features(VGG_LAYERS, weights)(image)
    x = normalized(image)
    for name, module in zip(LAYERS, torchvision_features, strict=True):
        x = module(x)
        if name in ours:
            torch.testing.assert_close(ours[name], x, rtol=1e-4, atol=1e-3)
    assert list(ours) == list(VGG_LAYERS)


def test_relu4_3_ends_the_first_23_layers_and_conv5_1_lies_beyond() -> None:
    assert LAYERS["relu4_3"].index == 22
    assert [LAYERS[layer].index for layer in ("relu1_2", "relu2_2", "relu3_3")] == [3, 8, 15]
    assert [LAYERS[layer].index for layer in LAYER_PRESETS["gatys"]] == [0, 5, 10, 17, 24]


@torch.inference_mode()
def test_a_layer_does_not_depend_on_the_other_layers_requested(weights: VGGWeights) -> None:
    image = torch.rand(1, 3, 32, 32)
    everything = VGG16Features(VGG_LAYERS, weights)(image)
    for layer in ("conv1_2", "relu2_2", "conv4_3", "relu4_3"):
        torch.testing.assert_close(VGG16Features([layer], weights)(image)[layer], everything[layer])
    assert everything["conv1_1"].min() < 0  # a ReLU in place would have cut it


def test_nothing_is_computed_after_the_deepest_layer(weights: VGGWeights) -> None:
    vgg = VGG16Features(["relu2_2", "relu1_2"], weights)
    assert vgg.layers == ("relu1_2", "relu2_2")
    assert [name for name in vgg.plan if name.startswith("conv")] == ["conv1_1", "conv1_2", "conv2_1", "conv2_2"]


def test_the_network_is_frozen_and_lets_the_gradient_through(weights: VGGWeights) -> None:
    vgg = VGG16Features(["relu3_3"], weights)
    image = torch.rand(1, 3, 16, 16, requires_grad=True)
    vgg(image)["relu3_3"].sum().backward()
    assert image.grad is not None
    assert image.grad.abs().sum() > 0
    assert not any(parameter.requires_grad for parameter in vgg.parameters())
    assert all(parameter.grad is None for parameter in vgg.parameters())


def test_building_it_draws_no_random_number(weights: VGGWeights) -> None:
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    VGG16Features(["relu4_3"], weights)
    assert torch.rand(1) == expected


def test_an_image_too_small_for_a_layer_is_an_error_with_both_sizes(weights: VGGWeights) -> None:
    with pytest.raises(SrcliError, match="7x5 pixels; relu4_3 needs at least 8x8"):
        VGG16Features(["relu4_3"], weights)(torch.rand(1, 3, 5, 7))


def test_every_layer_has_a_scale(weights: VGGWeights) -> None:
    assert set(weights.feature_scales) == set(VGG_LAYERS)
    assert min(weights.feature_scales.values()) > 1


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
def test_weights_from_a_file_with_torchvisions_names(tmp_path: Path, weights: VGGWeights, ending: str) -> None:
    path = tmp_path / f"vgg{ending}"
    tensors = {name: tensor.float() for name, tensor in weights.tensors.items()}
    torch.save(tensors, path) if ending == ".pth" else save_file(tensors, path)
    loaded = load_vgg_weights(str(path))
    assert loaded.normalization == OXFORD_INPUT
    assert loaded.feature_scales == {}
    tensors["features.0.bias"] = tensors["features.0.bias"] + 1
    torch.save(tensors, path) if ending == ".pth" else save_file(tensors, path)
    assert load_vgg_weights(str(path)).normalization.mean == (0.485, 0.456, 0.406)


def test_a_file_that_would_run_code_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "vgg.pth"
    torch.save({"features.0.bias": Path("anything")}, path)
    with pytest.raises(SrcliError, match="damaged or holds more than weights"):
        load_vgg_weights(str(path))


def test_a_file_of_another_network_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"conv.weight": torch.zeros(3)}, path)
    with pytest.raises(SrcliError, match=r"is not a VGG16: features\.0\.weight is missing"):
        VGG16Features(["relu1_1"], load_vgg_weights(str(path)))


@pytest.mark.parametrize("layer", ["conv1_1", "relu1_2", "relu2_2", "relu3_3", "relu4_3", "conv5_1"])
def test_receptive_fields_match_the_table(layer: str) -> None:
    """The gradient of an activation is zero outside its receptive field, and reaches its border."""
    facts = LAYERS[layer]
    torch.manual_seed(0)
    positive = {  # weights above zero, so that no ReLU and no maximum hides a path
        f"features.{other.index}.{part}": torch.rand(
            (other.channels, 3 if name == "conv1_1" else LAYERS[before].channels, 3, 3) if part == "weight" else other.channels
        )
        for before, (name, other) in zip(["conv1_1", *LAYERS], LAYERS.items(), strict=False)
        if name.startswith("conv")
        for part in ("weight", "bias")
    }
    vgg = VGG16Features([layer], VGGWeights("positive", positive, OXFORD_INPUT))
    side = 2 * facts.receptive_field + 2 * facts.stride
    # the largest of four pooled values is always the lower right one where brightness grows that way
    ramp = torch.arange(side, dtype=torch.float32) / side
    image = (1 + ramp[:, None] + ramp[None, :]).expand(1, 3, side, side).clone().requires_grad_(True)
    place = side // 2 // facts.stride
    vgg(image)[layer][..., place, place].sum().backward()
    assert image.grad is not None
    seen = image.grad.abs().sum(dim=(0, 1)).nonzero()
    assert seen.min() >= place * facts.stride - facts.before
    assert seen.max() == place * facts.stride + facts.after
