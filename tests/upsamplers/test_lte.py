"""LTE: a protocol may hide large scales from the phase, and from nothing else."""

from __future__ import annotations

import torch
from torch import Tensor

from scalewise.geometry.grid import Frame, Query, rectangle
from scalewise.upsamplers.lte import LTE


class Clipped(LTE):
    def condition(self, cell: Tensor) -> Tensor:
        return cell.clamp_min(0.25)


@torch.no_grad()
def test_a_conditioned_cell_changes_the_phase_alone() -> None:
    upsampler, clipped, frame = LTE(3, 8, (8,)), Clipped(3, 8, (8,)), Frame((5, 6))
    clipped.load_state_dict(upsampler.state_dict())
    field = upsampler.prepare(torch.randn(1, 3, 5, 6), torch.randn(1, 3, 5, 6), frame)
    below, above = rectangle(frame, (15, 18)), rectangle(frame, (40, 48))
    assert torch.equal(upsampler.sample(field, below), clipped.sample(field, below))
    shown = Query(above.y, above.x, torch.full((1, 2), 0.25))
    assert torch.equal(upsampler.sample(field, shown), clipped.sample(field, above))
    assert not torch.equal(upsampler.sample(field, above), clipped.sample(field, above))
