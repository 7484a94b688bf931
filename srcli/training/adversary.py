"""The discriminator that is trained along with a generator, with its optimizer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from srcli.core.discriminator import PatchDiscriminator, discriminator_loss, generator_loss, ratings_of
from srcli.training.distributed import DistributedContext
from srcli.training.optim import apply, prepared, restore_state, state_of

MAX_NORM = 10.0
"""Of the discriminator's gradient."""


class Adversary:
    """Rates sr and hr. In each step, `loss` trains the generator, `learn` collects gradients, and `update` applies them."""

    def __init__(self, device: torch.device, *, seed: int, dtype: torch.dtype, world: DistributedContext) -> None:
        """dtype: of autocast; float16, which would need a scaler of its own, is replaced by float32."""
        self.device, self.world = device, world
        self.dtype = torch.float32 if dtype == torch.float16 else dtype
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.discriminator = PatchDiscriminator()
        self.discriminator.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        weights, captured = self.discriminator.parameters(), world.can_capture(device)
        self.optimizer = prepared(torch.optim.Adam(weights, lr=0.0, betas=(0.9, 0.99), fused=True, capturable=captured))

    def loss(self, sr: Tensor, hr: Tensor) -> Tensor:
        """The loss of the generator, a scalar with a gradient for sr only."""
        self.discriminator.eval().requires_grad_(False)  # without a step of the spectral norm's power iteration
        with self._autocast():
            (real,) = ratings_of(self.discriminator, hr)
            (fake,) = ratings_of(self.discriminator, sr)
        return generator_loss(fake, real)

    def learn(self, sr: Tensor, hr: Tensor, *, share: float) -> None:
        """Add the gradients of the discriminator's own loss. share: of the batch that these images are."""
        self.discriminator.train().requires_grad_(True)
        with self._autocast():
            fake, real = ratings_of(self.discriminator, sr.detach(), hr)
        (share * discriminator_loss(fake, real)).backward()  # type: ignore[no-untyped-call]

    def update(self, lr: Tensor, found_inf: Tensor) -> None:
        """Take a step with the mean gradients of all processes, unless they are not finite or `found_inf` is 1.

        Both arguments are scalars on the device.
        """
        weights = [weight for weight in self.discriminator.parameters() if weight.grad is not None]
        for weight in weights:
            weight.grad = self.world.mean(weight.grad)  # type: ignore[arg-type]
        norm = nn.utils.clip_grad_norm_(weights, MAX_NORM)
        apply(self.optimizer, lr, torch.maximum(found_inf, (~norm.isfinite()).float()))
        self.optimizer.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Any]:
        return {"discriminator": self.discriminator.state_dict(), "optimizer": state_of(self.optimizer)}

    def restore(self, state: dict[str, Any]) -> None:
        self.discriminator.load_state_dict(state["discriminator"])
        restore_state(self.optimizer, state["optimizer"])

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)
