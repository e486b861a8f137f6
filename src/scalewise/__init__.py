"""scalewise enlarges images by any factor and spends computation only where the picture needs it.

    import scalewise
    result = scalewise.upscale("photo.jpg", scale=3.7, budget=0.5)
    result.save("photo_x3.7.png")

The names below load what they need when they are first used: `import scalewise` is quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from scalewise.version import __version__

if TYPE_CHECKING:
    from scalewise.budget.budget import Budget
    from scalewise.errors import Cancelled, ScalewiseError
    from scalewise.machine.threads import set_idle_threads
    from scalewise.pipeline import Upscaled, upscale
    from scalewise.zoo import load

__all__ = [
    "Budget",
    "Cancelled",
    "ScalewiseError",
    "Upscaled",
    "__version__",
    "load",
    "set_idle_threads",
    "upscale",
]

_HOMES = {
    "Budget": "budget.budget",
    "Cancelled": "errors",
    "ScalewiseError": "errors",
    "Upscaled": "pipeline",
    "load": "zoo",
    "set_idle_threads": "machine.threads",
    "upscale": "pipeline",
}


def __getattr__(name: str) -> Any:
    if name == "errors":  # a module, so it is in no list of names
        return import_module("scalewise.errors")
    if name not in _HOMES:
        raise AttributeError(f"module 'scalewise' has no attribute {name!r}")
    return getattr(import_module(f"scalewise.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
