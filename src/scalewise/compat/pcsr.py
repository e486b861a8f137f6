"""PCSR (ECCV 2024): {"model": {"name", "args", "sd"}, …} of a network with a heavy and a light head and a classifier.

It is recognised so that the message can say what it is; the network itself is not part of this package.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

from scalewise.checkpoints.files import Content
from scalewise.errors import CheckpointError

TITLE = "PCSR wrapper"


def accepts(content: Content) -> bool:
    model = content.data.get("model") if isinstance(content.data, Mapping) else None
    state = model.get("sd") if isinstance(model, Mapping) else None
    return isinstance(state, Mapping) and any(str(key).startswith("heavy_sampler.") for key in state)


def read(content: Content, overrides: Mapping[str, Any]) -> NoReturn:
    raise CheckpointError(
        f"{content.path} is a PCSR checkpoint ({content.data['model'].get('name')}: every output pixel routed between "
        "a heavy and a light head); scalewise does not run PCSR"
    )
