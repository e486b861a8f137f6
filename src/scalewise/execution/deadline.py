"""A budget in seconds: the share of the work that fits before the first tile, and its correction after each row."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from scalewise import images
from scalewise.budget.speed import Speed, format_seconds
from scalewise.errors import BudgetInfeasible
from scalewise.execution.plan import RunPlan, area
from scalewise.execution.tiles import Canvas
from scalewise.geometry.grid import Size
from scalewise.geometry.resize import imresize

MAX_OVERRUN = 1.2  # predicted over given time; a run that is predicted to take longer even at the floor is refused
AIM = 0.9  # of the time left: a share between the two that are probed takes longer than the line through both says
MIN_CORRECTION = 0.05  # a share is corrected when the time left asks for one that differs by more
MAX_SURPRISE = 3.0  # taken over predicted time of the first rows, or its inverse, that is believed
SAMPLE_SIDE, SAMPLE_PARTS = 24, 6  # LR pixels of a piece, and pieces along each axis, that encoding is timed with


@dataclass
class DeadlineController:
    """Says which share of the full model's MACs fits in the time left.

    `pixels` and `macs` are those of each tile, as it is read and with everything on. `deadline` is one of
    time.perf_counter. `encoding` are the seconds from the last tile to the finished file.
    """

    speed: Speed
    seconds: float
    deadline: float
    encoding: float
    pixels: Sequence[int]
    macs: Sequence[int]
    shares: list[float] = field(default_factory=list)  # first the one that was begun with, then the corrected ones
    _began: float = 0.0  # rendering

    @classmethod
    def of(cls, run_plan: RunPlan, sink: Canvas) -> DeadlineController:
        """For a run whose budget is in seconds."""
        assert run_plan.speed is not None
        seconds, tiles = run_plan.budget.value, run_plan.tiles
        return cls(
            run_plan.speed,
            seconds,
            run_plan.started + seconds,
            encoding_seconds(run_plan, sink) if isinstance(sink, images.Sink) else 0.0,
            [area(tile.source) for tile in tiles],
            [max(1, run_plan.full_macs(tile)) for tile in tiles],
        )

    def share(self) -> float:
        """What fits now, before the router looks: at most 1, and 0 if nothing does."""
        left = self.deadline - time.perf_counter() - self.encoding - self.speed.planning
        return min(1.0, self.speed.macs(AIM * left, sum(self.pixels)) / sum(self.macs))

    def accept(self, share: float, *, refuse: bool) -> None:
        """Rendering begins, with this share. `refuse` one that is more than fits: raises BudgetInfeasible if it is far
        more."""
        self._began = time.perf_counter()
        left = self.deadline - self._began - self.encoding
        needed = self.speed.seconds(sum(self.pixels), share * sum(self.macs))
        if refuse and needed > MAX_OVERRUN * left:
            raise BudgetInfeasible(
                f"budget {self.seconds:g} s is below what this model needs for this picture on this machine, about "
                f"{format_seconds(self.seconds - left + needed)}: ask for more, or for a smaller picture"
            )
        self.shares.append(share)

    def affordable(self, done: int, ran: int) -> float:
        """MACs for the rest, after the first `done` tiles, whose `ran` MACs took the time since rendering began."""
        now = time.perf_counter()
        predicted = self.speed.seconds(sum(self.pixels[:done]), ran)
        ratio = min(max((now - self._began) / max(predicted, 1e-9), 1 / MAX_SURPRISE), MAX_SURPRISE)
        left = AIM * max(0.0, self.deadline - now - self.encoding) / ratio
        return min(self.speed.macs(left, sum(self.pixels[done:])), float(sum(self.macs[done:])))

    def format_shares(self) -> str:
        """For the report: what the seconds became."""
        later = "".join(f", then {share:.1%}" for share in self.shares[1:])
        return f"{self.seconds:g} s became a budget of {self.shares[0]:.1%}{later}"


def encoding_seconds(run_plan: RunPlan, sink: images.Sink) -> float:
    """Seconds that encoding adds, measured on some of the picture's pixels.

    Where the sink encodes while tiles are rendered, only the last row of tiles remains to be encoded after them; of
    the rest counts what the encoder's thread takes from those of the model.
    """
    whole = sink.encoding_seconds(sample_of(run_plan.source, run_plan.out))
    if not sink.streams:
        return whole
    top, _, bottom, _ = run_plan.window
    last = whole * (bottom - max(tile.target[0] for tile in run_plan.tiles)) / (bottom - top)
    return last + (whole - last) / torch.get_num_threads()


def sample_of(source: images.Source, out: Size) -> Tensor:
    """Pixels like those of the output, from all over the picture: (3, H, W)."""
    height, width = source.size
    side = min(SAMPLE_SIDE, height, width)
    rows = []
    for i in range(SAMPLE_PARTS):
        y, row = (height - side) * (2 * i + 1) // (2 * SAMPLE_PARTS), []
        for j in range(SAMPLE_PARTS):
            x = (width - side) * (2 * j + 1) // (2 * SAMPLE_PARTS)
            lr = source.read((y, x, y + side, x + side), bled=True)
            row.append(imresize(lr, (max(1, side * out[0] // height), max(1, side * out[1] // width))))
        rows.append(torch.cat(row, -1))
    return torch.cat(rows, -2)
