"""Video: the same dial, also in time. Frames stream through decode, enlarge and encode; what does not change is kept.

    from scalewise.video import upscale_video
    report = upscale_video("talk.mp4", "talk_x2.mp4", scale=2, budget="40%")

`upscale_frames` does the same for frames of one's own. Reading and writing video needs PyAV: the extra `video`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scalewise.video.convert import upscale_video
    from scalewise.video.frames import upscale_frames
    from scalewise.video.report import VideoReport

__all__ = ["VideoReport", "upscale_frames", "upscale_video"]

_HOMES = {"VideoReport": "report", "upscale_frames": "frames", "upscale_video": "convert"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'scalewise.video' has no attribute {name!r}")
    return getattr(import_module(f"scalewise.video.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
