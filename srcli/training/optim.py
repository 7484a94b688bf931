"""The Muon optimizer."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
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
        self.found_inf: Tensor | None = None
        self._step_supports_amp_scaling = True
        self.stacks: list[list[_Kernels | _Vectors]] | None = None

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.stacks = None

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Update every weight. `closure` is not supported.

        Like PyTorch's fused optimizers, this neither waits for the device nor depends on the host: the learning rate of a group
        may be a tensor, and nothing changes if the tensor `found_inf` is 1.
        """
        assert closure is None
        if self.stacks is None:
            self.stacks = [_stacked(group["params"], self.state) for group in self.param_groups]
        found = getattr(self, "found_inf", None)
        for group, stacks in zip(self.param_groups, self.stacks, strict=True):
            alive = torch.ones((), device=group["params"][0].device) if found is None else 1 - found.view(())
            if group["weight_decay"]:
                torch._foreach_mul_(group["params"], 1 - alive * group["lr"] * group["weight_decay"])
            for stack in stacks:
                stack.update(group, alive)


def _stacked(weights: list[nn.Parameter], state: Mapping[Any, dict[str, Any]]) -> list[_Kernels | _Vectors]:
    by_shape: defaultdict[tuple[int, ...], list[nn.Parameter]] = defaultdict(list)
    for weight in weights:
        by_shape[weight.shape if weight.ndim > 1 else ()].append(weight)
    return [_Kernels(each, state) if shape else _Vectors(each, state) for shape, each in by_shape.items()]


class _Kernels:
    """Kernels of the same shape, which are updated together, and their momentum, of which each kernel's state is a part."""

    def __init__(self, kernels: list[nn.Parameter], state: Mapping[Any, dict[str, Any]]) -> None:
        self.kernels = kernels
        self.momentum = torch.stack([state[kernel].get("momentum", torch.zeros_like(kernel)) for kernel in kernels])
        for kernel, momentum in zip(kernels, self.momentum, strict=True):
            state[kernel]["momentum"] = momentum

    def update(self, group: dict[str, Any], alive: Tensor) -> None:
        gradients = _zero_unless(alive, torch.stack([_gradient(kernel) for kernel in self.kernels]))
        self.momentum.lerp_(gradients, alive * (1 - group["momentum"]))
        directions = gradients.lerp(self.momentum, group["momentum"])  # Nesterov momentum
        updates = orthogonal(directions.flatten(2))
        length = alive * group["lr"] * (RMS * math.sqrt(max(updates.shape[-2:])))
        torch._foreach_sub_([kernel.data for kernel in self.kernels], list((updates * length).view_as(directions).unbind()))


class _Vectors:
    """One-dimensional weights, which are updated together as one vector by Adam."""

    def __init__(self, weights: list[nn.Parameter], state: Mapping[Any, dict[str, Any]]) -> None:
        self.weights = weights
        self.sizes = [len(weight) for weight in weights]
        self.mean, self.square = (
            torch.cat([state[weight].get(name, torch.zeros_like(weight)) for weight in weights]) for name in ("mean", "square")
        )
        step = state[weights[0]].get("step", 0)
        self.step = torch.as_tensor(step, dtype=torch.float32, device=weights[0].device).clone()
        for weight, mean, square in zip(
            weights, torch.split(self.mean, self.sizes), torch.split(self.square, self.sizes), strict=True
        ):
            state[weight].update({"step": self.step, "mean": mean, "square": square})

    def update(self, group: dict[str, Any], alive: Tensor) -> None:
        gradients = _zero_unless(alive, torch.cat([_gradient(weight) for weight in self.weights]))
        one, two = group["betas"]
        self.step += alive
        self.mean.lerp_(gradients, alive * (1 - one))
        self.square.lerp_(gradients.square(), alive * (1 - two))
        # at least one step, as nothing may have been finite yet
        mean, square = (
            moment / (1 - beta ** self.step.clamp(min=1)) for moment, beta in ((self.mean, one), (self.square, two))
        )
        updates = alive * group["lr"] * mean / square.sqrt_().add_(group["eps"])
        torch._foreach_sub_([weight.data for weight in self.weights], list(torch.split(updates, self.sizes)))


def _gradient(weight: nn.Parameter) -> Tensor:
    assert weight.grad is not None
    return weight.grad


def _zero_unless(alive: Tensor, gradients: Tensor) -> Tensor:
    """The gradients, or zeros if `alive` is 0, when they may be NaN."""
    return torch.where(alive > 0, gradients, torch.zeros((), device=gradients.device))


def prepared(optimizer: Optimizer) -> Optimizer:
    """The optimizer without its warning that it is made for CUDA graphs, as its first steps are not captured."""
    optimizer._warned_capturable_if_run_uncaptured = True
    return optimizer


def apply(optimizer: Optimizer, lr: Tensor, found_inf: Tensor) -> None:
    """Take a step of a fused optimizer or of Muon, unless `found_inf`, a scalar, is 1. Does not wait for the device."""
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.grad_scale = None  # type: ignore[attr-defined]
    optimizer.found_inf = found_inf  # type: ignore[attr-defined]
    optimizer.step()


def state_of(optimizer: Optimizer) -> dict[str, Any]:
    """The `state_dict`, with the learning rate as a number."""
    state = optimizer.state_dict()
    groups = [group | {"lr": float(group["lr"])} for group in state["param_groups"]]
    return state | {"param_groups": groups}


def restore_state(optimizer: Optimizer, state: dict[str, Any]) -> None:
    """Load the state, but keep how the optimizer is computed, which may have been different on another device."""
    kept = ("fused", "foreach", "capturable")
    groups = [
        group | {name: own[name] for name in kept if name in own}
        for group, own in zip(state["param_groups"], optimizer.param_groups, strict=True)
    ]
    optimizer.load_state_dict(state | {"param_groups": groups})


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
