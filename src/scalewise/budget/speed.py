"""How fast one model is on this machine: seconds = a + b · MACs, where a grows with the pixels."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Timing:
    """One render: LR pixels read, MACs that ran, seconds."""

    pixels: int
    macs: int
    seconds: float


@dataclass(frozen=True)
class Speed:
    """Seconds for an LR pixel, whatever is decided about it, for a MAC, and for planning one picture, however small."""

    per_pixel: float
    per_mac: float
    planning: float = 0.0

    @classmethod
    def of(cls, full: Timing, less: Timing | None = None, planning: float = 0.0) -> Speed:
        """The speed from a render with everything on, and one of the same picture with less. Without the second, or
        where noise made that the slower one, all time is put down to MACs; without MACs, to pixels."""
        if full.macs == 0:
            return cls(full.seconds / full.pixels, 0.0, planning)
        proportional = full.seconds / full.macs
        if less is None or less.macs >= full.macs:
            return cls(0.0, proportional, planning)
        slope = (full.seconds - less.seconds) / (full.macs - less.macs)
        if not 0 < slope < proportional:
            return cls(0.0, proportional, planning)
        return cls((full.seconds - slope * full.macs) / full.pixels, slope, planning)

    def seconds(self, pixels: float, macs: float) -> float:
        """What a picture, or a part of one, takes once it is planned."""
        return self.per_pixel * pixels + self.per_mac * macs

    def macs(self, seconds: float, pixels: float) -> float:
        """The MACs that `seconds` leave room for, 0 if the pixels alone take longer; infinite if MACs take no time."""
        left = seconds - self.per_pixel * pixels
        if left <= 0:
            return 0.0
        return left / self.per_mac if self.per_mac else float("inf")


def format_seconds(seconds: float) -> str:
    """`0.18 s`, `3.4 s`, `154 s`: two figures, and all of the whole seconds."""
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.2g} s"
