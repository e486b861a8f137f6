"""A digest of a model: of its kind and its weights."""

from __future__ import annotations

import hashlib

import torch
from torch import nn

from scalewise.models.model import Model


def digest_of_model(model: Model) -> str:
    """Of the kind and the weights of a model."""
    digest = hashlib.blake2b(repr(model).encode(), digest_size=20)
    if isinstance(model, nn.Module):
        for name, value in sorted(model.state_dict().items()):
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
