"""Pictures run tile by tile, or patch by patch, as some protocols have it; overlaps are averaged."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable

import torch
from torch import Tensor

from scalewise.evaluate.metrics import eight_bit
from scalewise.evaluate.protocols import Tiles
from scalewise.evaluate.upscalers import PatchUpscaler, Picture, Prediction, Upscaler, joined_costs
from scalewise.execution.eight_bits import number_type
from scalewise.geometry.grid import Size
from scalewise.machine.device import numbers, pick_device


def tiled(
    upscaler: Upscaler, lr: Picture, scale: int, seen_scale: float, tiles: Tiles, *, round_tiles: bool = False
) -> Prediction:
    """A picture tile by tile. Models that route patches of the tiles' size decide once for all of them."""
    if isinstance(upscaler, PatchUpscaler) and upscaler.model.patch == tiles.size and tiles.remainder == "drop":
        return _patches(upscaler, lr, scale, tiles, round_tiles=round_tiles)
    h, w = lr.shape[-2:]
    side = tiles.side(h, w)
    starts = [(y, x) for y in tiles.starts(h, side) for x in tiles.starts(w, side)]
    parts = []

    def run(y: int, x: int) -> Picture:
        part = upscaler(lr[:, y : y + side, x : x + side], (side * scale, side * scale), seen_scale)
        parts.append(dataclasses.replace(part, sr=part.sr[:, :0]))  # the cost; the pixels go to the canvas
        return eight_bit(part.sr) if round_tiles else part.sr

    area = tiles.area(h, w)
    canvas = fuse(
        ((y * scale, x * scale, run(y, x)) for y, x in starts),
        (area[0] * scale, area[1] * scale),
    )
    return joined_costs(canvas, parts)


@torch.no_grad()
def _patches(upscaler: PatchUpscaler, lr: Picture, scale: int, tiles: Tiles, *, round_tiles: bool) -> Prediction:
    """The patch protocol of ClassSR, ARM and ENAF: a path for each patch, patches in batches."""
    started, model = time.perf_counter(), upscaler.model
    device = pick_device(upscaler.options.device)
    h, w = lr.shape[-2:]
    length, area = tiles.side(h, w), tiles.area(h, w)
    side, rows, columns = (length, length), tiles.starts(h, length), tiles.starts(w, length)
    image = lr.unsqueeze(0).to(device)
    evidence = model.router.evidence(image, rows, columns, side)
    each = torch.tensor([price.total for price in model.layout.prices(side)], dtype=torch.float64)
    prices = each.view(-1, 1, 1).expand(evidence.shape)
    plan = model.choose(evidence, prices, model.router.macs(area), upscaler.budget)
    choice = plan.route[0].choice.flatten()
    places = [(y, x) for y in rows for x in columns]
    with numbers(device, number_type(model, upscaler.options, device)[1]):
        runs = model.run(image, places, side, choice)
        finished = (
            (places[k][0] * scale, places[k][1] * scale, eight_bit(sr.float()) if round_tiles else sr) for k, sr in runs
        )
        canvas = fuse(finished, (area[0] * scale, area[1] * scale))
    taken = tuple(torch.bincount(choice, minlength=model.network.paths).tolist())
    return Prediction(canvas, plan.macs, plan.macs_full, time.perf_counter() - started, taken)


def fuse(patches: Iterable[tuple[int, int, Tensor]], size: Size) -> Picture:
    """Patches (row, column, picture) on a canvas of `size`, the mean where they overlap.

    ClassSR's code halves every overlap strip, columns then rows; with at most two patches per axis that is the mean.
    """
    canvas = torch.zeros(3, *size)
    count = torch.zeros(*size)
    for y, x, patch in patches:
        canvas[:, y : y + patch.shape[-2], x : x + patch.shape[-1]] += patch.cpu().float()
        count[y : y + patch.shape[-2], x : x + patch.shape[-1]] += 1
    return canvas / count
