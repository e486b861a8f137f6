"""How far a network sees and what it costs, measured once for each file and cached.

A theoretical field of view says little: that of RRDB is 300 pixels, and beyond some twenty nothing is felt in its
output. So a picture is run whole, then cut, then with other pixels beyond the cut: the context is the distance at which
neither moves a pixel by more than a quarter of a level of 8 bits. A network that looks at means of the whole picture
has none, as other pixels are felt at any distance.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from scalewise.machine.memory import LiveTensors
from scalewise.models.partial import photo_like
from scalewise.models.whole_network import Measured, Needs
from scalewise.storage import cache_folder, write_bytes

# Contexts in LR pixels that are tried, and how far a picture reaches with which they are compared.
STAGES = (((4, 8, 12, 16), 32), ((24, 32, 48), 72))
GRAIN = 0.3  # white noise, from its least to its greatest
FELT = 0.25 / 255
CORE = 16  # LR pixels a side of what is compared
MAX_MACS = 4e11  # of the picture that is run whole: some seconds of one core
VERSION = 1  # of what is cached


MacsOfPixel = Callable[[], tuple[float, float]]  # of convolutions and of matrix products


def measured(
    network: nn.Module,
    scale: int,
    needs: Needs,
    sha256: str,
    *,
    whole: bool = False,
    macs: MacsOfPixel | None = None,
) -> Measured:
    """What is cached for the file with this digest, else measured now. `whole`: the network is known to look at the
    whole picture, however little that may be felt. `macs`: of a network that does not run in torch."""
    path = cache_folder() / "networks" / f"{sha256}.json"
    with suppress(OSError, ValueError, TypeError, KeyError):
        known = json.loads(path.read_text(encoding="utf-8"))
        if known.pop("version") == VERSION:
            return Measured(**known)
    found = measure(network, scale, needs, whole=whole, macs=macs)
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, json.dumps({"version": VERSION} | asdict(found)).encode())
    return found


@torch.no_grad()
def measure(
    network: nn.Module, scale: int, needs: Needs, *, whole: bool = False, macs: MacsOfPixel | None = None
) -> Measured:
    """Measure a network on the CPU; see the file."""
    side = max(needs.padded((64, 64)))
    small = _picture(side, needs)
    counter = FlopCounterMode(display=False)
    with counter, LiveTensors() as live:
        network(small)
    flops = {str(name): count for name, count in counter.get_flop_counts().get("Global", {}).items()}
    conv = sum(count for name, count in flops.items() if "conv" in name) / 2 / side**2
    other = sum(count for name, count in flops.items() if "conv" not in name) / 2 / side**2
    if macs is not None:
        conv, other = macs()
    context, difference = (None, 0.0) if whole else _context(network, scale, needs, conv + other)
    return Measured(context, difference, conv, other, live.peak / side**2)


def _context(network: nn.Module, scale: int, needs: Needs, macs: float) -> tuple[int | None, float]:
    """The least context at which a cut is not felt and the difference there; None if it is felt at all of them."""
    core = -(-max(CORE, needs.minimum) // needs.multiple) * needs.multiple
    for contexts, far in STAGES:
        rim = -(-far // needs.multiple) * needs.multiple
        if macs * (core + 2 * rim) ** 2 > MAX_MACS:
            break
        picture = _picture(core + 2 * rim, needs)
        reference = _core(network(picture), rim, core, scale)
        for context in dict.fromkeys(-(-context // needs.multiple) * needs.multiple for context in contexts):
            cut = rim - context
            part = picture[..., cut : picture.shape[-2] - cut, cut : picture.shape[-1] - cut]
            difference = float((_core(network(part), context, core, scale) - reference).abs().max())
            if difference > FELT:
                continue
            other = 1 - picture
            other[..., cut : picture.shape[-2] - cut, cut : picture.shape[-1] - cut] = part
            other = float((_core(network(other), rim, core, scale) - reference).abs().max())
            if other <= FELT:
                return context, max(difference, other)
    return None, 0.0


def _picture(side: int, needs: Needs) -> Tensor:
    """A square with the spectrum of photos, and grain; opaque, if the network sees opacity."""
    grain = torch.rand(3, side, side, generator=torch.Generator().manual_seed(1)) - 0.5
    picture = (photo_like((side, side)) + GRAIN * grain).clamp(0, 1)
    picture = picture[: needs.channels] if needs.channels <= 3 else torch.cat((picture, torch.ones_like(picture[:1])))
    return picture.unsqueeze(0)


def _core(output: Tensor, rim: int, core: int, scale: int) -> Tensor:
    start, stop = rim * scale, (rim + core) * scale
    return output[..., start:stop, start:stop].float()
