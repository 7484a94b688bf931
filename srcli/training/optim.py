"""The Muon optimizer."""

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
"""Of the odd polynomial of degree 5 that moves singular values toward 1 (Jordan 2024). After five iterations they are between
about 0.7 and 1.2."""

RMS = 0.2
"""Root mean square of a kernel's update, in units of the learning rate. It is about that of Adam (Liu et al. 2025, sec. 2.2),
so both use the same learning rate."""


class Muon(Optimizer):
    """Orthogonalized momentum for kernels, and Adam for one-dimensional weights.

    After Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks", with the update length of Liu et al.
    2025, "Muon is Scalable for LLM Training". A kernel O x I x 3 x 3 is treated as a matrix O x 9 I. Unlike there, the first
    and the last layer are treated like all others. weight_decay is decoupled from the gradient, as in AdamW.

    torch.optim.Muon supports matrices only. Adam is computed here so that one optimizer with one state covers all weights.
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
        """Update every weight that has a gradient. `closure` is not supported."""
        assert closure is None
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if group["weight_decay"]:
                torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
            by_shape: defaultdict[tuple[int, ...], list[nn.Parameter]] = defaultdict(list)
            for weight in weights:
                if weight.ndim > 1:
                    by_shape[weight.shape].append(weight)
                else:
                    self._adam(weight, group)
            for kernels in by_shape.values():
                self._muon(kernels, group)

    def _muon(self, kernels: list[nn.Parameter], group: dict[str, Any]) -> None:
        """Update kernels of the same shape together."""
        directions = []
        for kernel in kernels:
            state, gradient = self.state[kernel], kernel.grad
            assert gradient is not None
            momentum = state.setdefault("momentum", torch.zeros_like(kernel))
            momentum.lerp_(gradient, 1 - group["momentum"])
            directions.append(gradient.lerp(momentum, group["momentum"]).flatten(1))  # Nesterov momentum
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
    """Approximately U V^T, where U S V^T is the singular value decomposition of each of N x R x C matrices.

    Uses matrix products only (Newton-Schulz iteration). Zero matrices stay zero.
    """
    tall = matrices.shape[-2] > matrices.shape[-1]
    x: Tensor = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-20)
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x.mT if tall else x
