"""The probe: never larger than the picture, within the memory given, and measured once."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scalewise import images, zoo
from scalewise.budget.budget import Budget
from scalewise.errors import InvalidRequest
from scalewise.execution import probe as probes
from scalewise.execution.plan import RunOptions
from scalewise.execution.planner import plan_run
from scalewise.execution.probe import PROBE_MAX_PIXELS, probe, probe_bytes, probe_size
from scalewise.machine.memory import LiveTensors, used_bytes
from scalewise.models.model import Model
from scalewise.models.multi_exit import MultiExitModel
from scalewise.multiexit.anyscale import AnyScaleExits
from scalewise.pipeline import upscale
from scalewise.routing.patch import PatchRouter

CPU = torch.device("cpu")
BICUBIC: Model = zoo.load("bicubic", device="cpu").model


def small_exits() -> MultiExitModel:
    torch.manual_seed(0)
    network = AnyScaleExits(8, exit_after=(1, 2), kernels=(3, 3))
    return MultiExitModel(PatchRouter(2, patch=16, channels=4), network, patch=16).eval()


EXITS: Model = small_exits()


@given(st.integers(1, 300), st.integers(1, 300), st.floats(1, 100), st.floats(2**16, 2**31), st.booleans())
def test_the_probe_is_within_the_picture_and_the_memory(h: int, w: int, s: float, room: float, exits: bool) -> None:
    model = EXITS if exits else BICUBIC
    size, out = (h, w), (max(1, round(h * s)), max(1, round(w * s)))
    small, enlarged = probe_size(model, size, out, room)
    assert small[0] <= h and small[1] <= w and enlarged[0] <= out[0] and enlarged[1] <= out[1]
    least = tuple(min(n, model.limits.patch_stride) for n in size)
    assert small == least or (probe_bytes(model, small, enlarged) <= room and math.prod(enlarged) <= PROBE_MAX_PIXELS)


@pytest.mark.parametrize("scale", [2, 7, 30])
@pytest.mark.parametrize("model", [BICUBIC, EXITS], ids=["bicubic", "exits"])
def test_the_rough_word_of_a_model_bounds_what_its_probe_holds(model: Model, scale: int) -> None:
    size, out = probe_size(model, (64, 48), (64 * scale, 48 * scale), 2**28)
    with LiveTensors() as live:
        probes._measure(model, size, out, True, CPU, torch.float32)
    assert live.peak <= probe_bytes(model, size, out) <= 2**28


def test_a_tiny_picture_at_a_huge_scale_stays_within_its_memory() -> None:
    """64 x 48 pixels at x100: a probe of 128 x 128 would have 164 megapixels."""
    source = images.open(np.zeros((64, 48, 3), np.uint8))
    limit = used_bytes(CPU) + (400 << 20)
    run_plan = plan_run(
        source, (6400, 4800), BICUBIC, Budget.full(), RunOptions(max_memory=limit, device="cpu", dtype="fp32")
    )
    assert run_plan.probe_bytes < limit and run_plan.memory <= limit


def test_memory_for_no_probe_at_all_is_refused_before_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "_measure", lambda *_: pytest.fail("it was rendered"))
    source = images.open(np.zeros((64, 48, 3), np.uint8))
    with pytest.raises(InvalidRequest, match="not enough here"):
        plan_run(source, (640, 480), small_exits(), Budget.full(), RunOptions(max_memory=1 << 20, device="cpu"))


def test_a_probe_is_run_once_for_a_model_and_a_size(monkeypatch: pytest.MonkeyPatch) -> None:
    model, real, calls = small_exits(), probes._measure, []

    def measured(*arguments: object) -> object:
        calls.append(arguments)
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(probes, "_measure", measured)
    first = probe(model, (32, 32), (64, 64), Budget.full(), CPU, torch.float32)
    assert probe(model, (32, 32), (64, 64), Budget.full(), CPU, torch.float32) is first and len(calls) == 1
    less = probe(model, (32, 32), (64, 64), Budget.seconds(3), CPU, torch.float32)
    assert probe(model, (32, 32), (64, 64), Budget.fraction(0.4), CPU, torch.float32) is less and len(calls) == 2
    assert less.speed.planning > 0 and first.bytes > 0


def test_a_model_with_one_level_is_measured_at_that() -> None:
    found = probe(BICUBIC, (32, 32), (64, 64), Budget.seconds(1), CPU, torch.float32)
    assert found.speed.per_mac == 0 and found.speed.per_pixel > 0


def test_the_report_counts_the_memory_of_the_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    real = probes._measure

    def large(*arguments: object) -> object:
        held = torch.ones(96 << 20, dtype=torch.uint8)
        found = real(*arguments)  # type: ignore[arg-type]
        assert int(held[-1]) == 1
        return found

    monkeypatch.setattr(probes, "_measure", large)
    before = used_bytes(CPU)
    report = upscale(np.zeros((24, 24, 3), np.uint8), 2.0, model=small_exits(), tile=16, device="cpu").report
    assert report.peak_bytes >= before + (64 << 20)
