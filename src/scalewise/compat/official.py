"""Parity mode: small subclasses that repeat what the published code does where our rule differs; see docs/quirks.md."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from scalewise.budget.budget import Effort
from scalewise.budget.route import Route
from scalewise.checkpoints.build import BUILDERS, ENCODERS, UPSAMPLERS, Constructors, classsr, enaf, super_resolver
from scalewise.compat import camixer, multipath
from scalewise.compat.adaformer import OfficialAdaFormer
from scalewise.compat.geometry import PublishedGeometry
from scalewise.contracts import Sampled
from scalewise.encoders.nlsa import NLSA, bucket_count
from scalewise.geometry.grid import Frame, Query
from scalewise.models.super_resolver import SuperResolver, pad_to_grid
from scalewise.upsamplers.ciaosr import CiaoSR
from scalewise.upsamplers.corners import Side, gather
from scalewise.upsamplers.fixed import FixedTail
from scalewise.upsamplers.itsrn import ITSRN
from scalewise.upsamplers.liif import LIIF
from scalewise.upsamplers.lte import LTE
from scalewise.upsamplers.metasr import MetaSR, apply_filters


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
        padded = pad_to_grid(lr, self.grid)
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


def meta_sr(model: SuperResolver, rgb: Tensor, scale: float) -> dict[str, Tensor]:
    """The original Meta-SR's forward, RGB in 0..255: ceil(scale)² slots for every LR pixel, of which a mask keeps some.

    Positions count in steps of 1 / scale, and the size is int(scale · n); ours is rounded, with the factor it gives.
    """
    upsampler = model.upsampler
    assert isinstance(upsampler, MetaSR)
    height, width = rgb.shape[-2:]
    slots = math.ceil(scale)
    rows, columns = slot_offsets(height, scale), slot_offsets(width, scale)
    offset_y, offset_x = torch.broadcast_tensors(rows[0].view(-1, 1), columns[0].view(1, -1))
    mask = rows[1].view(-1, 1) & columns[1].view(1, -1)
    inverse = torch.full_like(offset_y, 1.0 / scale)
    normal = (rgb / 255 - model.mean) / model.std
    field = upsampler.prepare(model.encoder(normal), normal, Frame((height, width)))  # type: ignore[operator]
    hidden = upsampler.mlp.hidden_after_first(upsampler.mlp.first(torch.stack((offset_y, offset_x, inverse), -1)))
    y = torch.arange(height * slots).view(1, -1, 1) // slots
    x = torch.arange(width * slots).view(1, 1, -1) // slots
    filtered = gather(field.filtered, y, x, width)
    full = apply_filters(filtered, hidden.unsqueeze(0)).permute(0, 3, 1, 2)
    full = (full * model.std + model.mean) * 255
    out = full[..., mask].unflatten(-1, (int(scale * height), int(scale * width)))
    positions = torch.stack((inverse, offset_y, offset_x), -1).view(1, -1, 3)
    return {"pos_mat": positions, "mask": mask, "sr_full": full, "out": out}


def slot_offsets(length: int, scale: float) -> tuple[Tensor, Tensor]:
    """Of each slot of one axis: how far into its LR pixel it lies (1 if unused), and whether it is used."""
    slots = math.ceil(scale)
    position = torch.arange(int(scale * length), dtype=torch.float32) * (1.0 / scale)
    pixel = position.floor().long()
    first = torch.searchsorted(pixel, pixel)  # the first output pixel of the same LR pixel
    slot = pixel * slots + torch.arange(len(pixel)) - first
    offset, used = torch.ones(length * slots), torch.zeros(length * slots, dtype=torch.bool)
    offset[slot] = position - pixel
    used[slot] = True
    return offset, used


# What `load(parity=True)` builds; builders that are not here have no quirk to repeat.
OFFICIAL_BUILDERS: Mapping[str, Callable[..., nn.Module]] = {
    **BUILDERS,
    "super_resolver": official_resolver,
    "enaf": partial(enaf, estimator=multipath.OfficialEstimator),
    "classsr": partial(classsr, estimator=multipath.OfficialEstimator),
}
