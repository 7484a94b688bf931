"""What decides the pixels of a batch, as text: the options, and the weights of the models."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

from srcli.inference.batch import UpscaleOptions
from srcli.models.registry import ModelSpec

if TYPE_CHECKING:
    from srcli.inference.backend import Model


def settings_of(options: UpscaleOptions) -> str:
    """Equal for batches whose results are equal. Raises OSError if the file of a model cannot be read."""
    models = {model.name: _weights_of(model) for model in options.all_models}
    return repr((options.size, models, options.save, options.frame, options.strip_metadata, options.background))


def _weights_of(model: Model) -> str:
    """16 hexadecimal digits."""
    total = sha256()
    if isinstance(model, ModelSpec):
        for path in (model.path, *(path for path, _ in model.blended)):
            total.update(path.read_bytes())
    else:
        for name, weights in model.network.state_dict().items():
            total.update(name.encode() + weights.cpu().numpy().tobytes())
    return total.hexdigest()[:16]
