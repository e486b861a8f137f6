"""ELAN's training script: {"epoch", "model_state_dict", …}."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scalewise.checkpoints.files import Content
from scalewise.compat.networks import from_mean_shift
from scalewise.compat.tables import ELAN_KEYS
from scalewise.compat.tail_tables import DIRECT_ELAN
from scalewise.compat.translate import Choices, Network, Translated, translate

TITLE = "ELAN"
NETWORKS = (Network("ELAN", ELAN_KEYS, DIRECT_ELAN, from_mean_shift),)


def accepts(content: Content) -> bool:
    return isinstance(content.data, Mapping) and isinstance(content.data.get("model_state_dict"), Mapping)


def read(content: Content, overrides: Mapping[str, Any]) -> Translated:
    state = {str(key).removeprefix("module."): value for key, value in content.data["model_state_dict"].items()}
    return translate(content.path, state, NETWORKS, Choices(overrides))
