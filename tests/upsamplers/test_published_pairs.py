"""Parameters of published pairs of encoder and upsampler."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from scalewise.encoders.edsr import EDSR
from scalewise.encoders.rcan import RCAN
from scalewise.encoders.rdn import RDN
from scalewise.encoders.swinir import SwinIR
from scalewise.upsamplers.ciaosr import CiaoSR
from scalewise.upsamplers.itsrn import ITSRN
from scalewise.upsamplers.liif import LIIF
from scalewise.upsamplers.lte import LTE
from scalewise.upsamplers.metasr import MetaSR

PUBLISHED = {
    EDSR: {LIIF: 1_567_299, MetaSR: 1_665_536, LTE: 1_714_243},
    RDN: {MetaSR: 22_419_072, LIIF: 22_320_835, LTE: 22_467_779, ITSRN: 22_619_266, CiaoSR: 23_402_566},
    RCAN: {LIIF: 15_642_083},
    SwinIR: {MetaSR: 12_048_164, LIIF: 11_949_927, LTE: 12_096_871, CiaoSR: 14_667_218},
}
PAIRS = [(encoder, *pair) for encoder, pairs in PUBLISHED.items() for pair in pairs.items()]


@pytest.mark.parametrize(("encoder", "upsampler", "published"), PAIRS, ids=lambda it: getattr(it, "__name__", str(it)))
def test_the_pair_has_the_published_number_of_parameters(
    encoder: type[nn.Module], upsampler: type[nn.Module], published: int
) -> None:
    with torch.device("meta"):
        # CiaoSR reads SwinIR's 180 channels, the others the 64 after its last convolution
        trunk = SwinIR(features=None) if (encoder, upsampler) == (SwinIR, CiaoSR) else encoder()
        parts = [trunk, upsampler(trunk.channels)]
    assert sum(p.numel() for part in parts for p in part.parameters()) == published
