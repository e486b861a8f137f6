"""mmediting (CiaoSR, and LIIF as retrained there): {"meta", "state_dict"}, keys under `generator.`.

Where a generator's average `generator_ema.` is there (GAN training), it is preferred.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from scalewise.checkpoints.files import Content
from scalewise.compat.networks import div2k, half
from scalewise.compat.tables import EDSR_BASICSR, RDN_MMEDITING, SWINIR_KEYS
from scalewise.compat.tail_tables import CIAOSR_KEYS, LIIF_KEYS
from scalewise.compat.translate import Choices, Network, Translated, translate
from scalewise.errors import CheckpointError

TITLE = "mmediting"
PREFIXES = ("generator_ema.", "generator.")
ENCODERS = (EDSR_BASICSR, RDN_MMEDITING, SWINIR_KEYS)
NETWORKS = (
    *(Network(f"CiaoSR on {encoder.title}", encoder, CIAOSR_KEYS, div2k(1.0)) for encoder in ENCODERS),
    # LIIF with mmediting's EDSR subtracts the mean, with its RDN it halves the range
    Network("LIIF on EDSR (mmediting)", EDSR_BASICSR, LIIF_KEYS, div2k(1.0)),
    Network("LIIF on RDN (mmediting)", RDN_MMEDITING, LIIF_KEYS, half),
)


def accepts(content: Content) -> bool:
    data = content.data
    if not isinstance(data, Mapping):
        return False
    return any(str(key).startswith(PREFIXES) for key in _state(data))


def read(content: Content, overrides: Mapping[str, Any]) -> Translated:
    everything = _state(content.data)
    for prefix in PREFIXES:
        state = {key.removeprefix(prefix): value for key, value in everything.items() if key.startswith(prefix)}
        if state:
            return translate(content.path, state, NETWORKS, Choices(overrides))
    raise CheckpointError(f"{content.path}: no generator in this mmediting file")


def _state(data: Mapping[str, Any]) -> dict[str, Tensor]:
    state = data.get("state_dict", data)
    return {str(key): value for key, value in state.items() if isinstance(value, Tensor)} if state else {}
