"""How far a network sees and what it costs, measured once for each file and cached.

A theoretical field of view says little: that of RRDB is 300 pixels, and beyond some twenty nothing is felt in its
output. So a picture is run whole, then cut, then with other pixels beyond the cut: the context is the distance at which
neither moves a pixel by more than a quarter of a level of 8 bits. A network that looks at means of the whole picture
has none, as other pixels are felt at any distance. And flat pictures are run, whose borders show what it pads with.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from math import lcm

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from scalewise.machine.memory import LiveTensors
from scalewise.models.model import UNBOUNDED_CONTEXT
from scalewise.models.partial import photo_like
from scalewise.models.whole_network import Measured, Needs
from scalewise.storage import cache_folder, read_cached, write_cached

# Contexts in LR pixels that are tried, and how far a picture reaches with which they are compared.
STAGES = (((4, 8, 12, 16), 32), ((24, 32, 48), 72))
GRAIN = 0.3  # white noise, from its least to its greatest
FELT = 0.25 / 255
CORE = 16  # LR pixels a side of what is compared
WINDOWS = (1, 2, 4, 8, 16, 32)  # LR pixels a side that are tried ...
WINDOW_RIM = 48  # ... and how far the border is from what is compared
WINDOW_FELT = 0.05 / 255  # what leaving out whole windows may change
MAX_MACS = 4e11  # of the picture that is run whole: some seconds of one core
FLAT_COLOURS = (0.0, 1.0)
UNEVEN = 0.5 / 255  # of the difference between a flat picture's border and its middle
MOST_BORDER = 24  # LR pixels
VERSION = 3  # of what is cached


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
    known = read_cached(path)
    with suppress(TypeError):  # a table with other fields
        if known.pop("version", None) == VERSION:
            return Measured(**known)
    found = measure(network, scale, needs, whole=whole, macs=macs)
    write_cached(path, {"version": VERSION} | asdict(found))
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
    window, shifted = _window(network, scale, needs)
    unit = lcm(needs.multiple, window)
    context, difference = (None, 0.0) if whole else _context(network, scale, needs, unit, conv + other)
    if context is None:
        difference = _cut_difference(network, scale, needs, unit)
    difference, border = max(difference, shifted), _border(network, scale, needs, unit)
    return Measured(context, difference, conv, other, live.peak / side**2, border, window)


def _window(network: nn.Module, scale: int, needs: Needs) -> tuple[int, float]:
    """The least number of first rows and columns, of those tried, whose loss is not felt, and the difference that it
    makes: networks that cut a picture into windows feel all that are no multiple of a window. 1 if all are felt."""
    rim = -(-WINDOW_RIM // needs.multiple) * needs.multiple
    core = _core_side(needs)
    picture = _picture(core + 2 * rim, needs)
    reference = _core(network(picture), rim, core, scale)
    for window in WINDOWS:
        cut = lcm(window, needs.multiple)
        if cut > rim - needs.multiple:
            break
        part = _core(network(picture[..., cut:, cut:]), rim - cut, core, scale)
        if (difference := float((part - reference).abs().max())) <= WINDOW_FELT:
            return window, difference
    return 1, 0.0


def _context(network: nn.Module, scale: int, needs: Needs, unit: int, macs: float) -> tuple[int | None, float]:
    """The least context, a multiple of `unit`, at which a cut is not felt and the difference there; None if it is felt
    at all of them."""
    core = -(-_core_side(needs) // unit) * unit
    for contexts, far in STAGES:
        rim = -(-far // unit) * unit
        if macs * (core + 2 * rim) ** 2 > MAX_MACS:
            break
        picture = _picture(core + 2 * rim, needs)
        reference = _core(network(picture), rim, core, scale)
        for context in dict.fromkeys(-(-context // unit) * unit for context in contexts):
            if (cut := rim - context) <= 0:  # nothing would be cut off
                continue
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


def _cut_difference(network: nn.Module, scale: int, needs: Needs, unit: int) -> float:
    """What a cut at UNBOUNDED_CONTEXT changes of a small picture that reaches half as far again."""
    context, cut = (-(-n // unit) * unit for n in (UNBOUNDED_CONTEXT, UNBOUNDED_CONTEXT // 2))
    core, rim = _core_side(needs), context + cut
    picture = _picture(core + 2 * rim, needs)
    whole = _core(network(picture), rim, core, scale)
    part = network(picture[..., cut : core + 2 * rim - cut, cut : core + 2 * rim - cut])
    return float((_core(part, context, core, scale) - whole).abs().max())


def _border(network: nn.Module, scale: int, needs: Needs, unit: int) -> int:
    """LR pixels from the border of flat pictures beyond which they become what they do in the middle."""
    side = -(-max(2 * MOST_BORDER + CORE, needs.minimum, 3 * unit) // unit) * unit  # one cell at least without a border
    cells = side // unit
    ring = torch.minimum(torch.arange(cells), cells - 1 - torch.arange(cells))
    ring = torch.minimum(ring[:, None], ring)  # cells to the nearest border
    seen = 0
    for colour in FLAT_COLOURS:
        picture = torch.full((1, needs.channels, side, side), colour)
        picture[:, 3:] = 1  # opaque, if the network sees opacity
        output = network(picture).float()
        output = output.unflatten(3, (cells, unit * scale)).unflatten(2, (cells, unit * scale))
        middle = output[:, :, cells // 2, :, cells // 2]
        off = (output - middle[:, :, None, :, None]).abs().amax((0, 1, 3, 5))
        seen = max([seen, *(ring[off > UNEVEN] + 1).tolist()])
    return min(seen * unit, MOST_BORDER)


def _core_side(needs: Needs) -> int:
    return -(-max(CORE, needs.minimum) // needs.multiple) * needs.multiple


def _picture(side: int, needs: Needs) -> Tensor:
    """A square with the spectrum of photos, and grain; opaque, if the network sees opacity."""
    grain = torch.rand(3, side, side, generator=torch.Generator().manual_seed(1)) - 0.5
    picture = (photo_like((side, side)) + GRAIN * grain).clamp(0, 1)
    picture = picture[: needs.channels] if needs.channels <= 3 else torch.cat((picture, torch.ones_like(picture[:1])))
    return picture.unsqueeze(0)


def _core(output: Tensor, rim: int, core: int, scale: int) -> Tensor:
    start, stop = rim * scale, (rim + core) * scale
    return output[..., start:stop, start:stop].float()
