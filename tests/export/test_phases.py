"""At a whole factor, phases are the upsampler itself: the border included, at even and odd factors."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from scalewise.compat.geometry import PublishedGeometry
from scalewise.errors import InvalidRequest, UnsupportedScale
from scalewise.export.phases import at_scale
from scalewise.geometry.grid import Frame, rectangle
from scalewise.upsamplers.fixed import Bicubic
from scalewise.upsamplers.liif import LIIF
from scalewise.upsamplers.lte import LTE
from scalewise.upsamplers.metasr import MetaSR

CHANNELS = 6
UPSAMPLERS: dict[str, Callable[[], nn.Module]] = {
    "bicubic": Bicubic,
    "liif": lambda: LIIF(CHANNELS, (12, 12)),
    "liif of one pixel": lambda: LIIF(CHANNELS, (12,), local_ensemble=False, feat_unfold=False, cell_decode=False),
    "lte": lambda: LTE(CHANNELS, 8, (12,)),
    "metasr": lambda: MetaSR(CHANNELS, 12),
}


@pytest.mark.parametrize("scale", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("name", UPSAMPLERS)
def test_phases_are_the_upsampler(name: str, scale: int) -> None:
    torch.manual_seed(0)
    upsampler = UPSAMPLERS[name]()
    for size in ((2, 2), (5, 9)):
        features, lr = torch.randn(1, CHANNELS, *size), torch.randn(1, 3, *size)
        frame = Frame(size)
        query = rectangle(frame, (scale * size[0], scale * size[1]))
        with torch.no_grad():
            expected = upsampler.sample(upsampler.prepare(features, lr, frame), query)  # type: ignore[operator]
            found = at_scale(upsampler, scale)(features, lr)  # type: ignore[arg-type]
        assert torch.allclose(found, expected, atol=2e-5)


def test_what_has_no_phases_is_refused() -> None:
    liif = LIIF(CHANNELS, (4,))
    for scale in (0.5, 3.7, 100):
        with pytest.raises(UnsupportedScale, match="whole factor from 1 to 16"):
            at_scale(liif, scale)
    liif.geometry = PublishedGeometry()
    with pytest.raises(InvalidRequest, match="published rounding"):
        at_scale(liif, 4)
