"""VGG16 and the feature loss in someone else's training loop."""

import pytest
import torch
from torch import nn

import srcli
from srcli.errors import ConfigError


def test_a_module_with_the_feature_loss_has_only_its_own_weights() -> None:
    module = nn.ModuleDict({"network": nn.Conv2d(3, 3, 1), "loss": srcli.FeatureLoss("relu1_2,relu2_2=0.5")})
    assert set(module.state_dict()) == {"network.weight", "network.bias"}
    assert len(list(module.parameters())) == 2


def test_the_feature_loss_has_gradients_and_works_under_autocast() -> None:
    loss = srcli.FeatureLoss("relu2_2")
    sr, hr = torch.rand(2, 1, 3, 32, 32).unbind()
    sr.requires_grad_()
    exact = loss(sr, hr)
    exact.backward()
    assert sr.grad is not None
    assert sr.grad.abs().sum() > 0
    with torch.autocast("cpu", torch.bfloat16):
        assert loss(sr, hr).item() == pytest.approx(exact.item(), rel=0.05)


def test_layers_are_given_by_names_with_weights_or_by_a_preset() -> None:
    images = torch.rand(2, 1, 3, 32, 32).unbind()
    parts = [srcli.FeatureLoss(layer)(*images) for layer in ("relu1_2", "relu2_2")]
    torch.testing.assert_close(srcli.FeatureLoss("relu1_2=3,relu2_2")(*images), 3 * parts[0] + parts[1])
    assert set(srcli.VGG16Features("gatys")(images[0])) == {"conv1_1", "conv2_1", "conv3_1", "conv4_1", "conv5_1"}
    with pytest.raises(ConfigError, match="Did you mean relu4_"):
        srcli.FeatureLoss("relu4_9")


@pytest.mark.gpu
def test_the_feature_loss_moves_to_a_gpu() -> None:
    images = torch.rand(2, 1, 3, 32, 32).unbind()
    loss = srcli.FeatureLoss("relu2_2")
    on_cpu = loss(*images).item()
    assert loss.cuda()(*(image.cuda() for image in images)).item() == pytest.approx(on_cpu, rel=1e-3)
