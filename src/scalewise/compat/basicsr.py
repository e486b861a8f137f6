"""BasicSR: {"params": …, "params_ema": …}; the average is preferred, as its authors do when they test."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scalewise.checkpoints.files import Content
from scalewise.compat import camixer
from scalewise.compat.networks import BASICSR_NETWORKS
from scalewise.compat.translate import Choices, Translated, translate

TITLE = "BasicSR"
KEYS = ("params_ema", "params")


def accepts(content: Content) -> bool:
    data = content.data
    return isinstance(data, Mapping) and any(isinstance(data.get(key), Mapping) for key in KEYS)


def read(content: Content, overrides: Mapping[str, Any]) -> Translated:
    state = next(content.data[key] for key in KEYS if isinstance(content.data.get(key), Mapping))
    state = {str(key).removeprefix("module."): value for key, value in state.items()}
    return translate(content.path, state, (*BASICSR_NETWORKS, *camixer.NETWORKS), Choices(overrides))
