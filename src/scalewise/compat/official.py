"""Parity mode: small subclasses that repeat what the published code does where our rule differs; see docs/quirks.md."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from scalewise.budget.budget import Effort
from scalewise.budget.route import Route
from scalewise.checkpoints.build import BUILDERS, ENCODERS, UPSAMPLERS, Constructors, super_resolver
from scalewise.checkpoints.patch_networks import classsr, enaf
from scalewise.compat import camixer, multipath
from scalewise.compat.adaformer import OfficialAdaFormer
from scalewise.compat.geometry import PublishedGeometry
from scalewise.contracts import Sampled
from scalewise.encoders.nlsa import NLSA, bucket_count
from scalewise.geometry.grid import Frame, Query
from scalewise.layers import pad_to_grid
from scalewise.models.super_resolver import SuperResolver
from scalewise.upsamplers.ciaosr import CiaoSR
from scalewise.upsamplers.corners import Side
from scalewise.upsamplers.fixed import FixedTail
from scalewise.upsamplers.itsrn import ITSRN
from scalewise.upsamplers.liif import LIIF
from scalewise.upsamplers.lte import LTE
from scalewise.upsamplers.metasr import MetaSR


class RandomRotations(NLSA):
    """NLSN draws its hash directions anew at every call, from torch's global generator."""

    def rotations(self, lr: Tensor) -> list[Tensor]:
        tokens = lr.shape[-2] * lr.shape[-1]
        half = bucket_count(tokens, min(self.chunk, tokens)) // 2
        return [torch.randn(1, self.features, self.hashes, half).to(lr) for _ in self.attentions]


class OfficialLIIF(LIIF):
    geometry = PublishedGeometry()


class OfficialLTE(LTE):
    geometry = PublishedGeometry()


class OfficialITSRN(ITSRN):
    geometry = PublishedGeometry()


class OfficialCiaoSR(CiaoSR):
    geometry = PublishedGeometry()


class OfficialMetaSR(MetaSR):
    """Takes any pair of factors and uses the vertical one for both axes."""

    geometry = PublishedGeometry()

    def check(self, cell: Tensor, axes: tuple[Side, Side]) -> None:
        pass


class UncroppedResolver(SuperResolver):
    """Windowed fixed-scale networks crop the picture, not the features: their tail sees the padding."""

    def forward(
        self,
        lr: Tensor,
        query: Query,
        scale: Tensor,
        effort: Effort | None = None,
        frame: Frame | None = None,
        plan: Route = (),
    ) -> Sampled:
        if not isinstance(self.upsampler, FixedTail):
            return super().forward(lr, query, scale, effort, frame, plan)
        padded = pad_to_grid(lr, self.limits.patch_stride)
        frame = frame or Frame((padded.shape[-2], padded.shape[-1]))
        return super().forward(padded, query, scale, effort, frame, plan)


OFFICIAL_ENCODERS: Constructors = {
    **ENCODERS,
    **camixer.OFFICIAL_ENCODERS,
    "adaformer": OfficialAdaFormer,
    "nlsa": RandomRotations,
}
OFFICIAL_UPSAMPLERS: Constructors = {
    **UPSAMPLERS,
    "ciaosr": OfficialCiaoSR,
    "itsrn": OfficialITSRN,
    "liif": OfficialLIIF,
    "lte": OfficialLTE,
    "metasr": OfficialMetaSR,
}

official_resolver = partial(
    super_resolver, encoders=OFFICIAL_ENCODERS, upsamplers=OFFICIAL_UPSAMPLERS, resolver=UncroppedResolver
)


# What `load(parity=True)` builds; builders that are not here have no quirk to repeat.
OFFICIAL_BUILDERS: Mapping[str, Callable[..., nn.Module]] = {
    **BUILDERS,
    "super_resolver": official_resolver,
    "enaf": partial(enaf, estimator=multipath.OfficialEstimator),
    "classsr": partial(classsr, estimator=multipath.OfficialEstimator),
}
