"""The original Meta-SR's forward, which places pixels by steps of 1 / scale and not by the size they make."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from scalewise.geometry.grid import Frame
from scalewise.models.super_resolver import SuperResolver
from scalewise.upsamplers.corners import apply_filters, gather
from scalewise.upsamplers.metasr import MetaSR


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
