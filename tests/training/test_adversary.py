"""The adversarial loss: what each side learns, and that a resumed run is the same to the bit."""

from pathlib import Path

import pytest
import torch

from srcli.config import LossConfig
from srcli.core.discriminator import PatchDiscriminator, discriminator_loss, generator_loss
from srcli.errors import ConfigError
from srcli.training.adversary import Adversary
from srcli.training.dataset import PhotoDataset
from srcli.training.distributed import DistributedContext
from srcli.training.run_dir import RunDirectory
from srcli.training.trainer import Trainer
from tests.training.test_trainer import crops as crops  # a fixture
from tests.training.test_trainer import run, start, tiny

LOSS = LossConfig(l1=1, pixel=0, adversarial=0.01)


def adversary() -> Adversary:
    return Adversary(torch.device("cpu"), seed=0, dtype=torch.float32, world=DistributedContext())


def test_equal_ratings_have_the_loss_of_a_guess() -> None:
    ratings = torch.zeros(2, 1, 4, 4)
    assert generator_loss(ratings, ratings).item() == pytest.approx(0.6931, abs=1e-4)
    assert discriminator_loss(ratings, ratings).item() == pytest.approx(2 * 0.6931, abs=1e-4)
    assert generator_loss(ratings + 3, ratings) < generator_loss(ratings, ratings) < generator_loss(ratings - 3, ratings)
    assert discriminator_loss(ratings - 3, ratings) < discriminator_loss(ratings + 3, ratings)


def test_the_norm_of_every_layer_but_the_last_is_one() -> None:
    network = PatchDiscriminator(8)
    for _ in range(50):
        network(torch.rand(1, 3, 32, 32))
    assert network(torch.rand(2, 3, 64, 48)).shape == (2, 1, 8, 6)
    for layer in list(network.layers)[:-1]:
        weight = layer[0].weight.detach().flatten(1)
        assert torch.linalg.matrix_norm(weight, 2).item() == pytest.approx(1, abs=0.02)


def test_the_discriminator_learns_and_the_generator_gets_a_gradient_for_sr_only() -> None:
    rival = adversary()
    random = torch.Generator().manual_seed(0)
    hr = torch.rand(4, 3, 32, 32, generator=random)
    sr = torch.nn.functional.avg_pool2d(hr, 3, 1, 1).requires_grad_()
    before = rival.loss(sr, hr)
    before.backward()
    assert sr.grad is not None
    assert sr.grad.abs().sum() > 0
    assert all(weight.grad is None for weight in rival.discriminator.parameters())
    for _ in range(30):
        rival.learn(sr, hr, share=1.0)
        rival.update(torch.tensor(1e-3), torch.tensor(0.0))
    assert rival.loss(sr, hr) > before + 0.2  # it tells blurred images from sharp ones


def test_gradients_that_are_not_finite_do_not_change_the_discriminator() -> None:
    rival = adversary()
    weights = [weight.clone() for weight in rival.discriminator.parameters()]
    rival.learn(torch.full((1, 3, 32, 32), torch.nan), torch.rand(1, 3, 32, 32), share=1.0)
    rival.update(torch.tensor(1e-3), torch.tensor(0.0))
    assert all(torch.equal(*pair) for pair in zip(weights, rival.discriminator.parameters(), strict=True))


def trainer(crops: PhotoDataset, folder: Path | None = None) -> Trainer:
    made = start(tiny(loss=LOSS))
    if folder:
        made.restore(RunDirectory(folder).load())
    return made


def test_a_resumed_run_ends_with_the_same_bits(tmp_path: Path, crops: PhotoDataset) -> None:
    whole, part = trainer(crops), trainer(crops)
    steps = run(whole, crops)
    assert steps[-1].terms["adversarial"] > 0
    assert steps[-1].weighted["adversarial"] == pytest.approx(0.01 * steps[-1].terms["adversarial"])
    run(part, crops, until=3)
    folder = RunDirectory(tmp_path / "run")
    folder.create(part.config, "srcli train")
    folder.save_checkpoint(part, {})
    rest = trainer(crops, tmp_path / "run")
    run(rest, crops)
    for one, other in ((whole.generator, rest.generator), (_of(whole), _of(rest))):
        for name, weight in one.state_dict().items():
            assert torch.equal(weight, other.state_dict()[name]), name


def _of(made: Trainer) -> PatchDiscriminator:
    assert made.adversary is not None
    return made.adversary.discriminator


def test_accumulated_parts_learn_what_the_whole_batch_does(crops: PhotoDataset) -> None:
    whole, parts = (start(tiny(loss=LOSS, precision="fp32", accumulate=parts)) for parts in (1, 2))
    for made in (whole, parts):
        run(made, crops, until=2)
    for one, other in zip(_of(whole).parameters(), _of(parts).parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=2e-3, rtol=0)  # the means of ratings are over parts


def test_an_adversarial_loss_alone_is_rejected() -> None:
    with pytest.raises(ConfigError, match="An adversarial loss needs another term"):
        LossConfig(pixel=0, adversarial=1)
