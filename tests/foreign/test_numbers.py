"""Networks that are not ours in 16-bit numbers: where their file allows them, and again in fp32 where they overflow."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import scalewise
from scalewise.models.whole_network import Measured, Needs, WholeNetwork

SIZE = (24, 32)


class Loud(nn.Module):
    """A convolution to large numbers and another back; says in which numbers it computed."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.up, self.down = nn.Conv2d(3, 3, 1, bias=False), nn.Conv2d(3, 3, 1, bias=False)
        self.used: list[torch.dtype] = []
        with torch.no_grad():
            self.up.weight.copy_(gain * torch.eye(3)[..., None, None])
            self.down.weight.copy_(torch.eye(3)[..., None, None] / gain)

    def forward(self, picture: Tensor) -> Tensor:
        large = self.up(picture)
        self.used.append(large.dtype)
        return self.down(large).repeat_interleave(2, 2).repeat_interleave(2, 3)


def ran(dtype: Any, *, gain: float = 1.0, **allowed: bool) -> tuple[np.ndarray, tuple[str, ...], list[torch.dtype]]:
    model = WholeNetwork(Loud(gain), 2, Needs(**allowed), Measured(4, 0.0, 9.0, 0.0, 100.0)).eval()
    lr = np.random.default_rng(0).random((*SIZE, 3), np.float32)
    upscaled = scalewise.upscale(lr, 2, model=scalewise.zoo.LoadedModel("loud", model), dtype=dtype, device="cpu")
    assert np.abs(upscaled.image - lr.repeat(2, 0).repeat(2, 1)).max() < 0.01
    return upscaled.image, upscaled.report.notes, model.network.used  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("dtype", "used"), [("fp16", torch.float16), ("bf16", torch.bfloat16), ("fp32", torch.float32)]
)
def test_it_computes_in_the_numbers_that_were_asked_for(dtype: str, used: torch.dtype) -> None:
    assert ran(dtype)[2] == [used]


@pytest.mark.parametrize(("dtype", "allowed"), [("fp16", {"fp16": False}), ("bf16", {"bf16": False})])
def test_or_in_fp32_where_its_file_does_not_allow_them(dtype: str, allowed: dict[str, bool]) -> None:
    assert ran(dtype, **allowed)[2] == [torch.float32]
    other = "bf16" if dtype == "fp16" else "fp16"
    assert ran(other, **allowed)[2] != [torch.float32]


def test_what_overflows_is_computed_again_in_fp32() -> None:
    _, notes, used = ran("fp16", gain=1e6)
    assert used == [torch.float16, torch.float32]
    assert any("not finite in fp16 and was redone in fp32" in note for note in notes)
    assert ran("bf16", gain=1e6)[2] == [torch.bfloat16], "which has the range of fp32"


def test_our_networks_compute_in_fp16_too() -> None:
    lr = np.random.default_rng(0).random((*SIZE, 3), np.float32)
    half, single = (scalewise.upscale(lr, 2.5, dtype=dtype, device="cpu").image for dtype in ("fp16", "fp32"))
    assert 0 < np.abs(half - single).max() < 0.02
