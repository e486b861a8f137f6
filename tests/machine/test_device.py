"""What a program around us has set in torch spoils neither models nor pictures, and is back afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from scalewise import zoo
from scalewise.machine.device import torch_defaults
from scalewise.pipeline import upscale

PICTURE = np.random.default_rng(0).integers(0, 256, (40, 36, 3), np.uint8)
CPU = torch.device("cpu")


@contextmanager
def double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


@contextmanager
def on_meta() -> Iterator[None]:
    torch.set_default_device("meta")
    try:
        yield
        assert torch.get_default_device().type == "meta"
    finally:
        torch.set_default_device(None)


@contextmanager
def autocast() -> Iterator[None]:
    with torch.autocast("cpu", torch.bfloat16):
        yield
        assert torch.is_autocast_enabled("cpu")


def enlarged(budget: float) -> np.ndarray:
    return upscale(PICTURE, 2.3, budget=budget, dtype="fp32", device="cpu").image


@pytest.mark.parametrize("around", [double, on_meta, autocast])
def test_settings_of_the_program_change_no_picture(around: Callable[[], contextmanager]) -> None:  # type: ignore[type-arg]
    expected = [enlarged(budget) for budget in (1.0, 0.5)]
    zoo._load.cache_clear()
    with around():  # type: ignore[attr-defined]
        first = [enlarged(budget) for budget in (1.0, 0.5)]
    again = [enlarged(budget) for budget in (1.0, 0.5)]  # with the model that was loaded meanwhile
    for one, two, three in zip(expected, first, again, strict=True):
        assert np.array_equal(one, two) and np.array_equal(one, three)
    model = zoo.load("fast", device="cpu").model
    assert {value.dtype for value in model.state_dict().values()} == {torch.float32}  # type: ignore[attr-defined]


def test_the_last_one_out_restores_the_number_type() -> None:
    torch.set_default_dtype(torch.float64)
    try:
        outer, inner = torch_defaults(CPU), torch_defaults(CPU)
        outer.__enter__()
        inner.__enter__()
        assert torch.get_default_dtype() == torch.float32
        outer.__exit__(None, None, None)  # as threads do, in any order
        assert torch.get_default_dtype() == torch.float32 and torch.zeros(1).dtype == torch.float32
        inner.__exit__(None, None, None)
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
