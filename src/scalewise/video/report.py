"""What a clip will take, said before the start, and what it took."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from scalewise.geometry.grid import Size


@dataclass(frozen=True)
class Forecast:
    """`frames`: 0 if the file does not say how many; `seconds` and `bytes` (of disk, while it is made) are rough.

    `share` is the part of the full MACs that was taken for `seconds`: what a budget allows, and what changes from frame
    to frame at the start of the clip."""

    frames: int
    size: Size
    seconds: float
    bytes: float
    share: float
    still: float
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Progress:
    """`done` of `frames` frames (0: nobody knows), how many in a second, and the seconds that are left; `shown`: when
    the last one is shown, in seconds from the start of the clip."""

    done: int
    frames: int
    rate: float
    left: float
    shown: float


@dataclass(frozen=True)
class VideoReport:
    """What a clip cost. `macs_full` is what all frames take in full, one by one; `reused` the share of patches whose
    output was kept; `exits` how many patches were computed with each exit, of a model that has some. `seconds` are
    those of all runs, `network_seconds` without reading and encoding."""

    frames: int
    size: Size
    macs: int
    macs_full: int
    reused: float
    scenes: int
    still: float
    exits: dict[int, int]
    seconds: float
    network_seconds: float
    notes: tuple[str, ...] = field(default=())

    @property
    def share(self) -> float:
        """MACs spent over those of all frames in full."""
        return self.macs / self.macs_full if self.macs_full else 1.0

    def as_dict(self) -> dict[str, Any]:
        """The JSON of `--report`."""
        return {
            "frames": self.frames,
            "size": [self.size[1], self.size[0]],
            "macs": self.macs,
            "macs_full": self.macs_full,
            "share": self.share,
            "reused": self.reused,
            "scenes": self.scenes,
            "still": self.still,
            "exits": {str(level): count for level, count in sorted(self.exits.items())},
            "seconds": self.seconds,
            "network_seconds": self.network_seconds,
            "seconds_per_frame": self.seconds / self.frames if self.frames else 0.0,
            "notes": list(self.notes),
        }
