"""A bare state dict: EDSR-PyTorch, RCAN, NLSN, Meta-SR, CARN, ARM's and ClassSR's plain networks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from scalewise.checkpoints.files import Content
from scalewise.compat.networks import BARE_NETWORKS, BASICSR_NETWORKS
from scalewise.compat.translate import Choices, Translated, translate

TITLE = "bare state dict"


def accepts(content: Content) -> bool:
    data = content.data
    return isinstance(data, Mapping) and bool(data) and all(isinstance(value, Tensor) for value in data.values())


def read(content: Content, overrides: Mapping[str, Any]) -> Translated:
    state = {str(key).removeprefix("module."): value for key, value in content.data.items()}
    return translate(content.path, state, (*BARE_NETWORKS, *BASICSR_NETWORKS), Choices(overrides))
