"""Muon, compared with PyTorch's Muon for matrices, PyTorch's Adam for vectors, and the SVD."""

import copy

import pytest
import torch
from torch import Tensor, nn

from srcli.training.optim import Muon, orthogonal


@pytest.mark.parametrize("shape", [(3, 8, 72), (2, 40, 9), (1, 5, 5)])
def test_directions_are_those_of_the_singular_vectors_with_values_near_one(shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    matrices = torch.randn(shape)
    u, s, vt = torch.linalg.svd(orthogonal(matrices), full_matrices=False)
    assert s.min() > 0.5
    assert s.max() < 1.3
    left, _, right = torch.linalg.svd(matrices, full_matrices=False)
    values = left.mT @ (u * s[:, None]) @ vt @ right.mT  # diagonal where both have the same singular vectors
    assert (values - torch.diag_embed(values.diagonal(dim1=-2, dim2=-1))).abs().max() < 1e-3


def test_a_zero_gradient_changes_nothing() -> None:
    assert orthogonal(torch.zeros(2, 3, 4)).abs().max() == 0


def updates(optimizer: torch.optim.Optimizer, weight: nn.Parameter, gradients: list[Tensor]) -> list[Tensor]:
    """The updates of a weight for these gradients."""
    moves = []
    for gradient in gradients:
        before = weight.detach().clone()
        weight.grad = gradient.clone()
        optimizer.step()
        moves.append(weight.detach() - before)
    return moves


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this PyTorch has no Muon")
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_a_kernel_moves_as_pytorchs_muon_moves_its_matrix(decay: float) -> None:
    torch.manual_seed(1)
    kernel = nn.Parameter(torch.randn(16, 8, 3, 3))
    matrix = nn.Parameter(kernel.detach().flatten(1).clone())
    gradients = [torch.randn(16, 8, 3, 3) for _ in range(4)]
    theirs = torch.optim.Muon([matrix], lr=0.01, weight_decay=decay, adjust_lr_fn="match_rms_adamw")
    moved = updates(Muon([kernel], 0.01, weight_decay=decay), kernel, gradients)
    expected = updates(theirs, matrix, [gradient.flatten(1) for gradient in gradients])
    for mine, other in zip(moved, expected, strict=True):
        assert nn.functional.cosine_similarity(mine.flatten(), other.flatten(), dim=0) > 0.999  # theirs in bfloat16
        assert mine.norm() == pytest.approx(other.norm().item(), rel=0.02)


def test_a_bias_moves_as_pytorchs_adam_moves_it() -> None:
    torch.manual_seed(2)
    one, other = (nn.Parameter(torch.ones(7)) for _ in range(2))
    gradients = [torch.randn(7) for _ in range(5)]
    moved = updates(Muon([one], 0.01), one, gradients)
    expected = updates(torch.optim.Adam([other], lr=0.01), other, gradients)
    for mine, theirs in zip(moved, expected, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-7, rtol=1e-5)


def test_it_resumes_from_its_state_to_the_bit() -> None:
    torch.manual_seed(3)
    weights = [nn.Parameter(torch.randn(shape)) for shape in ((4, 4, 3, 3), (4, 4, 3, 3), (4,))]
    gradients = [[torch.randn_like(weight) for weight in weights] for _ in range(6)]

    def go(optimizer: Muon, own: list[nn.Parameter], part: slice) -> None:
        for step in gradients[part]:
            for weight, gradient in zip(own, step, strict=True):
                weight.grad = gradient.clone()
            optimizer.step()

    whole, first = copy.deepcopy(weights), copy.deepcopy(weights)
    go(Muon(whole, 0.01), whole, slice(6))
    optimizer = Muon(first, 0.01)
    go(optimizer, first, slice(3))
    second = copy.deepcopy(first)
    resumed = Muon(second, 0.5)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    go(resumed, second, slice(3, 6))
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(whole, second, strict=True))
