"""How far a router's estimate of a patch's PSNR is off: the mean error of each path, as ENAF's Table 3 has it."""

from __future__ import annotations

import math
from pathlib import Path

import torch

from scalewise.errors import ProtocolMismatch
from scalewise.evaluate.pairs import find_pairs, load_pair
from scalewise.evaluate.protocols import EvalProtocol, find_protocol
from scalewise.evaluate.upscalers import PatchUpscaler, Upscaler
from scalewise.routing.estimator import EdgeRouter, ENAFRouter


@torch.no_grad()
def estimate_errors(
    upscaler: Upscaler, data: Path | str, scale: float, protocol: EvalProtocol | str = "enaf"
) -> tuple[float, ...]:
    """The mean over all patches of |estimated - real PSNR| in dB, for each path; real: of RGB, the whole patch, as the
    network gives it. A patch that a path restores without any error has no PSNR and does not count.

    Raises ProtocolMismatch for networks whose router estimates no PSNR, and for protocols without their patches.
    """
    protocol = find_protocol(protocol) if isinstance(protocol, str) else protocol
    protocol.check(scale)
    model = upscaler.model if isinstance(upscaler, PatchUpscaler) else None
    if model is None or not isinstance(model.router, ENAFRouter | EdgeRouter):
        raise ProtocolMismatch("only ENAF's and ARM's networks estimate the PSNR of a patch")
    if protocol.tiles is None or protocol.tiles.size != model.patch:
        raise ProtocolMismatch(f"protocol {protocol.name} has no patches of {model.patch} LR pixels: use enaf or arm")
    device, factor = next(model.parameters()).device, model.network.scale
    total, count = [0.0] * model.network.paths, [0] * model.network.paths
    for pair in find_pairs(data, scale):
        lr, hr = load_pair(pair, scale, protocol)
        h, w = lr.shape[-2:]
        side = protocol.tiles.side(h, w)
        rows, columns = protocol.tiles.starts(h, side), protocol.tiles.starts(w, side)
        image = lr.unsqueeze(0).to(device)
        estimates = model.router.estimates(image, rows, columns, (side, side)).flatten(1)
        places = [(y, x) for y in rows for x in columns]
        for path in range(model.network.paths):
            choice = torch.full((len(places),), path)
            for k, sr in model.run(image, places, (side, side), choice):
                top, left = (n * factor for n in places[k])
                real = hr[:, top : top + sr.shape[-2], left : left + sr.shape[-1]]
                error = float((sr.float().cpu() - real).double().square().mean())
                if error > 0:
                    total[path] += abs(float(estimates[path, k]) + 10 * math.log10(error))
                    count[path] += 1
    return tuple(value / max(1, number) for value, number in zip(total, count, strict=True))
