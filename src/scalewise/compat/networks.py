"""Published networks by family of files: which encoder with which upsampler, and the value range that they see."""

from __future__ import annotations

import re
from itertools import product

import torch

from scalewise.checkpoints.build import Colour
from scalewise.compat.adapt import SPAN_RANGE
from scalewise.compat.tables import (
    CARN_KEYS,
    CAT_KEYS,
    DISP_KEYS,
    EDSR_BASICSR,
    EDSR_TORCH,
    ETDS_KEYS,
    FSRCNN_KEYS,
    NLSN_KEYS,
    RCAN_BASICSR,
    RCAN_TORCH,
    RDN_LIIF,
    RLFN_KEYS,
    SPAN_KEYS,
    SRRESNET_KEYS,
    SWINIR_KEYS,
)
from scalewise.compat.tail_tables import (
    CASCADE,
    DECONVOLUTION,
    DIRECT_BASICSR,
    DIRECT_UPSAMPLER,
    ITSRN_KEYS,
    LIIF_KEYS,
    LTE_KEYS,
    LTE_PLUS,
    METASR_KEYS,
    METASR_OFFICIAL,
    RECTIFIED,
    RESIDUAL,
    RESNET_TAIL,
    SHUFFLE_BASICSR,
    SHUFFLE_RDN,
    SHUFFLE_TORCH,
    SPAN_TAIL,
)
from scalewise.compat.translate import Choices, Network, Normal, Tensors
from scalewise.layers import DIV2K_MEAN


def half(state: Tensors, choices: Choices) -> tuple[Colour, Colour]:
    """(x - 0.5) / 0.5: LIIF and its followers; the mean shift in their files is not applied."""
    return (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)


def plain(state: Tensors, choices: Choices) -> tuple[Colour, Colour]:
    """RGB in [0, 1] as it is."""
    return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)


def div2k(published_range: float) -> Normal:
    """The DIV2K mean, times a value range; neither is in the file."""

    def normal(state: Tensors, choices: Choices) -> tuple[Colour, Colour]:
        mean = choices.value("mean", list(DIV2K_MEAN))
        value_range = float(choices.value("value_range", published_range))
        return tuple(mean), (1 / value_range,) * 3  # type: ignore[return-value]

    return normal


def plain_range(published_range: float) -> Normal:
    """RGB times a value range that is not in the file, without a mean."""

    def normal(state: Tensors, choices: Choices) -> tuple[Colour, Colour]:
        value_range = float(choices.value("value_range", published_range))
        return (0.0, 0.0, 0.0), (1 / value_range,) * 3  # type: ignore[return-value]

    return normal


def span_range(state: Tensors, choices: Choices) -> tuple[Colour, Colour]:
    """SPAN: (rgb - mean) · 255, or rgb where the file says `no_norm`."""
    return (
        plain(state, choices) if "no_norm" in state else (DIV2K_MEAN, (1 / SPAN_RANGE, 1 / SPAN_RANGE, 1 / SPAN_RANGE))
    )


def from_mean_shift(state: Tensors, choices: Choices) -> tuple[Colour, Colour]:
    """The file's own mean shift, x - range · mean; the range is 255 if the shift is above 1, else 1."""
    keys = [key for key in state if re.match(r"(encoder\.)?sub_mean(\.shifter)?\.(weight|bias)$", key)]
    found = {key.rpartition(".")[2]: state[key] for key in keys}
    if "bias" not in found:
        return plain(state, choices)
    if "weight" in found and not torch.allclose(found["weight"].float().flatten(1), torch.eye(3), atol=1e-4):
        raise ValueError("sub_mean.weight (it should be the identity)")
    shift = (-found["bias"].double()).tolist()
    value_range = 255.0 if max(map(abs, shift)) > 1.5 else 1.0
    return tuple(round(v / value_range, 7) for v in shift), (1 / value_range,) * 3  # type: ignore[return-value]


_TORCH_PAIRS = (
    ("EDSR", EDSR_TORCH, SHUFFLE_TORCH),
    ("RCAN", RCAN_TORCH, SHUFFLE_TORCH),
    ("RDN", RDN_LIIF, SHUFFLE_RDN),
)

LIIF_NETWORKS = (
    *(Network(f"{e.title} ({u.title})", e, u, half) for _, e, u in _TORCH_PAIRS),
    *(
        Network(f"{u.title} on {e.title}", e, u, half)
        for e, u in product(
            (EDSR_TORCH, RDN_LIIF, RCAN_TORCH, SWINIR_KEYS), (METASR_KEYS, LIIF_KEYS, LTE_KEYS, LTE_PLUS, ITSRN_KEYS)
        )
    ),
)

BARE_NETWORKS = (
    *(Network(f"{e.title} ({u.title})", e, u, from_mean_shift) for _, e, u in _TORCH_PAIRS),
    *(Network(f"Meta-SR on {e.title}", e, METASR_OFFICIAL, from_mean_shift) for _, e, _ in _TORCH_PAIRS),
    Network("CARN-M", CARN_KEYS, CASCADE, from_mean_shift),
    Network("NLSN", NLSN_KEYS, SHUFFLE_TORCH, from_mean_shift),
    Network("FSRCNN", FSRCNN_KEYS, DECONVOLUTION, plain),
    Network("SRResNet", SRRESNET_KEYS, RESNET_TAIL, plain),
)

BASICSR_NETWORKS = (
    Network("EDSR (BasicSR)", EDSR_BASICSR, SHUFFLE_BASICSR, div2k(255.0)),
    Network("RCAN (BasicSR)", RCAN_BASICSR, SHUFFLE_BASICSR, div2k(255.0)),
    Network("SwinIR (classical)", SWINIR_KEYS, SHUFFLE_BASICSR, div2k(1.0)),
    Network("SwinIR (lightweight)", SWINIR_KEYS, DIRECT_BASICSR, div2k(1.0)),
    Network("SwinIR (restoration)", SWINIR_KEYS, RESIDUAL, div2k(1.0)),
    Network("CAT", CAT_KEYS, SHUFFLE_BASICSR, div2k(1.0)),
    Network("CAT (restoration)", CAT_KEYS, RESIDUAL, div2k(1.0)),
    Network("SRResNet (BasicSR)", SRRESNET_KEYS, RESNET_TAIL, plain),
    Network("DISP", DISP_KEYS, DIRECT_UPSAMPLER, plain),
    Network("ETDS", ETDS_KEYS, RECTIFIED, plain),
    Network("RLFN", RLFN_KEYS, DIRECT_UPSAMPLER, plain_range(255.0)),
    Network("SPAN", SPAN_KEYS, SPAN_TAIL, span_range),
)
