"""The speed of a model: a line through two renders, and what fits in given seconds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalewise.budget.speed import Speed, Timing, format_seconds


def test_two_renders_give_pixels_and_macs_their_part() -> None:
    speed = Speed.of(Timing(1000, 10_000, 3.0), Timing(1000, 4_000, 1.8), planning=0.1)
    assert speed.per_mac == pytest.approx(2e-4) and speed.per_pixel == pytest.approx(1e-3)
    assert speed.seconds(1000, 10_000) == pytest.approx(3.0) and speed.planning == 0.1


def test_one_render_is_put_down_to_macs_or_without_any_to_pixels() -> None:
    assert Speed.of(Timing(1000, 10_000, 3.0)) == Speed(0.0, 3e-4)
    assert Speed.of(Timing(1000, 0, 3.0)) == Speed(3e-3, 0.0)


@given(st.floats(0.01, 5), st.floats(0.01, 5), st.integers(1, 9_999))
def test_no_noise_makes_a_part_negative(full: float, less: float, macs: int) -> None:
    speed = Speed.of(Timing(1000, 10_000, full), Timing(1000, macs, less))
    assert speed.per_pixel >= -1e-12 and speed.per_mac > 0
    assert speed.seconds(1000, 10_000) == pytest.approx(full)


@given(st.floats(0, 1e-3), st.floats(1e-9, 1e-3), st.floats(0, 10), st.integers(1, 5000))
def test_what_fits_takes_the_seconds_given(per_pixel: float, per_mac: float, seconds: float, pixels: int) -> None:
    speed = Speed(per_pixel, per_mac)
    macs = speed.macs(seconds, pixels)
    assert macs >= 0 and (macs == 0 or speed.seconds(pixels, macs) == pytest.approx(seconds))


def test_macs_that_take_no_time_all_fit() -> None:
    assert Speed(1e-3, 0.0).macs(0.1, 10) == float("inf")


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0123, "0.012 s"), (0.18, "0.18 s"), (3.44, "3.4 s"), (9.97, "10 s"), (154.2, "154 s")]
)
def test_seconds_are_read_without_powers_of_ten(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text
