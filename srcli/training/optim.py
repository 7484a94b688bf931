"""Muon: kernels take steps of equal length in all directions, and everything else takes Adam's."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

ITERATIONS = 5
COEFFICIENTS = 3.4445, -4.7750, 2.0315
"""Of the odd polynomial of degree five that pulls singular values towards 1 (Jordan 2024): after five times, they lie
between about 0.7 and 1.2."""

RMS = 0.2
"""Root mean square of a kernel's update in units of the learning rate: about that of Adam's (Liu et al. 2025, sec. 2.2), so
that one learning rate serves both."""


class Muon(Optimizer):
    """Momentum whose singular values are made equal, for kernels; Adam for weights with one dimension.

    After Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks", with the update's length of Liu et
    al. 2025, "Muon is Scalable for LLM Training". A kernel O x I x 3 x 3 is taken as a matrix O x 9 I. Differs: first and
    last layers, which both leave to Adam, are kernels as any other here. weight_decay is apart from the gradient, as AdamW's.

    PyTorch's own Muon takes matrices alone, no kernels.
    """

    def __init__(
        self,
        weights: Iterable[nn.Parameter],
        lr: float,
        *,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(weights, {"lr": lr, "momentum": momentum, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Update every weight that has a gradient. There is nothing to call again: `closure` must be None."""
        assert closure is None
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if group["weight_decay"]:
                torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
            alike: defaultdict[tuple[int, ...], list[nn.Parameter]] = defaultdict(list)
            for weight in weights:
                if weight.ndim > 1:
                    alike[weight.shape].append(weight)
                else:
                    self._adam(weight, group)
            for kernels in alike.values():
                self._muon(kernels, group)

    def _muon(self, kernels: list[nn.Parameter], group: dict[str, Any]) -> None:
        """Kernels of one shape, at once."""
        directions = []
        for kernel in kernels:
            state, gradient = self.state[kernel], kernel.grad
            assert gradient is not None
            momentum = state.setdefault("momentum", torch.zeros_like(kernel))
            momentum.lerp_(gradient, 1 - group["momentum"])
            directions.append(gradient.lerp(momentum, group["momentum"]).flatten(1))  # Nesterov's
        updates = orthogonal(torch.stack(directions))
        length = group["lr"] * RMS * math.sqrt(max(updates.shape[-2:]))
        for kernel, update in zip(kernels, updates, strict=True):
            kernel.sub_(update.view_as(kernel), alpha=length)

    def _adam(self, weight: nn.Parameter, group: dict[str, Any]) -> None:
        state, gradient = self.state[weight], weight.grad
        assert gradient is not None
        if not state:
            state |= {"step": 0, "mean": torch.zeros_like(weight), "square": torch.zeros_like(weight)}
        state["step"] += 1
        one, two = group["betas"]
        state["mean"].lerp_(gradient, 1 - one)
        state["square"].lerp_(gradient.square(), 1 - two)
        mean = state["mean"] / (1 - one ** state["step"])
        square = state["square"] / (1 - two ** state["step"])
        weight.addcdiv_(mean, square.sqrt_().add_(group["eps"]), value=-group["lr"])


def orthogonal(matrices: Tensor) -> Tensor:
    """U V^T of the singular value decomposition U S V^T of each of N x R x C matrices, roughly, by products of matrices.

    A matrix of zeros stays one.
    """
    tall = matrices.shape[-2] > matrices.shape[-1]
    x: Tensor = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-20)
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x.mT if tall else x
