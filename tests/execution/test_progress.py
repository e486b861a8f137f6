"""A run can be followed and ended between the layers of a tile: no test here measures time."""

from __future__ import annotations

from concurrent.futures import Future
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from scalewise import images, zoo
from scalewise.budget.budget import Budget
from scalewise.budget.meter import listening
from scalewise.encoders.edsr import EDSR
from scalewise.errors import Cancelled, InvalidRequest
from scalewise.execution.decide import decide
from scalewise.execution.plan import RunOptions
from scalewise.execution.planner import plan_run
from scalewise.execution.tiles import TileRunner
from scalewise.models.super_resolver import SuperResolver
from scalewise.pipeline import upscale
from scalewise.upsamplers.ciaosr import CiaoSR
from scalewise.upsamplers.liif import LIIF

PICTURE = np.random.default_rng(0).random((40, 48, 3)).astype(np.float32)


class Counted(nn.Conv2d):
    """A convolution that counts how often it and its like are called."""

    calls = 0

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        Counted.calls += 1
        return super().forward(input)


@pytest.fixture
def model() -> SuperResolver:
    """Nine convolutions of equal size."""
    torch.manual_seed(0)
    encoder = EDSR(channels=8, blocks=4)
    for block in encoder.blocks:
        for name, layer in list(block.named_modules()):
            if isinstance(layer, nn.Conv2d):
                counted = Counted(8, 8, 3, padding=1)
                parent = block.get_submodule(name.rpartition(".")[0])
                setattr(parent, name.rpartition(".")[2], counted)
    Counted.calls = 0
    return SuperResolver(encoder, LIIF(8, (16,)))


def test_progress_moves_within_the_only_tile(model: SuperResolver) -> None:
    seen: list[float] = []
    upscale(PICTURE, 2.0, model=model, progress=lambda share: seen.append(share))
    inside = [share for share in seen if 0 < share < 1]
    assert len(set(inside)) >= 4 and seen[0] == 0 and seen[-1] == 1
    assert all(one <= other for one, other in pairwise(seen))


@pytest.mark.parametrize("budget", [1.0, 0.5])
def test_progress_of_fast_moves_within_the_only_tile(budget: float) -> None:
    seen: list[float] = []
    upscale(PICTURE, 2.0, budget=budget, progress=lambda share: seen.append(share))
    assert len({share for share in seen if 0 < share < 1}) >= 4 and seen == sorted(seen)


@pytest.mark.parametrize("stop", [1, 3, 5])
def test_cancelling_acts_before_the_next_layer(model: SuperResolver, stop: int) -> None:
    def progress(share: float) -> bool:
        return Counted.calls < stop

    with pytest.raises(Cancelled, match="after 0 of 1 tiles"):
        upscale(PICTURE, 2.0, model=model, progress=progress)
    assert Counted.calls == stop


def test_interpolation_can_be_ended_between_bands_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scalewise.execution.progress.STEP_SECONDS", 0.0)
    seen: list[float] = []

    def progress(share: float) -> bool:
        seen.append(share)
        return len(seen) < 6

    with pytest.raises(Cancelled, match="after 0 of 1 tiles"):
        upscale(PICTURE, 8.0, model="bicubic", progress=progress)
    assert len(seen) == 6


def test_what_progress_raises_ends_the_tile(model: SuperResolver) -> None:
    def late(share: float) -> None:
        if Counted.calls == 2:
            raise InvalidRequest("the time is over")

    with pytest.raises(InvalidRequest, match="the time is over"):
        upscale(PICTURE, 2.0, model=model, progress=late)
    assert Counted.calls == 2


def test_the_router_can_be_cancelled_too() -> None:
    with pytest.raises(Cancelled, match="before the first tile"):
        upscale(PICTURE, 2.0, progress=lambda share: False)


def test_loops_without_modules_are_places_to_stop() -> None:
    torch.manual_seed(0)
    encoder = EDSR(channels=8, blocks=1)
    model = SuperResolver(encoder, CiaoSR(8))
    calls = 0

    def progress(share: float) -> None:
        nonlocal calls
        calls += 1

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scalewise.execution.progress.STEP_SECONDS", -1.0)  # every layer and every tick
        upscale(PICTURE, 2.0, model=model, progress=progress)
        modules = sum(1 for _ in model.modules())
    assert calls > modules + 40 // 2


def test_the_picture_is_the_same_with_and_without_progress() -> None:
    plain = upscale(PICTURE, 2.0, budget=0.5).image
    assert np.array_equal(plain, upscale(PICTURE, 2.0, budget=0.5, progress=lambda share: None).image)


def test_a_model_keeps_nothing_of_a_run_that_was_cancelled() -> None:
    model: Any = zoo.load("fast").model
    with pytest.raises(Cancelled):
        upscale(PICTURE, 2.0, model=model, progress=lambda share: share == 0)
    assert all(not layer._forward_pre_hooks for layer in model.modules())
    assert upscale(PICTURE, 2.0, model=model).report.share == 1


def test_a_run_ends_while_its_last_rows_are_written() -> None:
    """Waiting for the writer hears that the run was cancelled, and what the writer has not begun stays undone."""
    run_plan = plan_run(images.open(PICTURE), (80, 96), zoo.bicubic(), Budget.full(), RunOptions())
    runner, heard = TileRunner.of(run_plan, decide(run_plan, Budget.full())), [0]
    work: Future[None] = Future()
    runner._pending.append(work)

    def hear(macs: int) -> None:
        heard[0] += 1
        if heard[0] == 3:
            work.set_result(None)

    with listening(hear):
        runner._wait()
    assert heard[0] == 3
    runner._ended.set()
    written: list[Any] = []
    sink: Any = SimpleNamespace(write=lambda *given: written.append(given))
    runner._write(sink, run_plan.tiles[0], None, torch.zeros(3, 80, 96), 0, 80)
    assert not written


def test_a_probe_can_be_cancelled(model: SuperResolver) -> None:
    asked: list[float] = []

    def stop(share: float) -> bool:
        asked.append(share)
        return False

    with pytest.raises(Cancelled):
        upscale(PICTURE, 2.0, model=model, budget="5s", progress=stop)
    assert asked == [0.0] and Counted.calls == 0
