"""One prediction under all protocols: how far the conventions alone lie apart."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from scalewise.errors import ProtocolMismatch
from scalewise.evaluate.pairs import Picture, find_pairs, load_pair
from scalewise.evaluate.protocols import DEFAULT, PROTOCOLS, EvalProtocol
from scalewise.evaluate.runner import score
from scalewise.evaluate.upscalers import Upscaler


@dataclass(frozen=True)
class Comparison:
    """The mean of one set of predictions under one protocol, or `absent`: why it cannot be measured so."""

    protocol: str
    psnr: float = math.nan
    ssim: float = math.nan
    absent: str = ""


def compare_protocols(
    upscaler: Upscaler, data: Path | str, scale: float, protocols: Sequence[EvalProtocol] | None = None
) -> list[Comparison]:
    """The same predictions scored under every protocol: how far the conventions alone lie apart.

    Pairs and predictions are those of `default`, each picture run whole; a protocol then crops, rounds, shaves and
    weights them as it does.
    """
    pictures = []
    for pair in find_pairs(data, scale):
        lr, hr = load_pair(pair, scale, DEFAULT)
        with torch.inference_mode():
            pictures.append((upscaler(lr, (hr.shape[-2], hr.shape[-1]), scale).sr.float().cpu(), hr))
    rows = []
    for protocol in protocols or PROTOCOLS.values():
        try:
            scores = [_rescore(sr, hr, scale, dataclasses.replace(protocol, whole=True)) for sr, hr in pictures]
        except ProtocolMismatch as error:
            rows.append(Comparison(protocol.name, absent=str(error)))
            continue
        kinds = [("ws_psnr", "ws_ssim")] if protocol.projection == "erp" else []
        for psnr, ssim in [("psnr", "ssim"), *kinds]:
            name = protocol.name + (" (WS)" if psnr == "ws_psnr" else "")
            psnrs, ssims = ([values[key] for values in scores] for key in (psnr, ssim))
            rows.append(Comparison(name, sum(psnrs) / len(psnrs), sum(ssims) / len(ssims)))
    return rows


def _rescore(sr: Picture, hr: Picture, scale: float, protocol: EvalProtocol) -> dict[str, float]:
    protocol.check(scale)
    height, width = hr.shape[-2:]
    if protocol.projection == "erp" and width != 2 * height:
        raise ProtocolMismatch(f"protocol {protocol.name} is for equirectangular pictures, twice as wide as high")
    height, width = height - height % protocol.multiple, width - width % protocol.multiple
    area = protocol.area((int(height / scale), int(width / scale)), scale)
    height, width = (min(round(n * scale), whole) for n, whole in zip(area, (height, width), strict=True))
    return score(sr[:, :height, :width], hr[:, :height, :width], scale, protocol)
