"""The three names of torchvision that spandrel imports, where torchvision is absent or does not load.

torchvision is large, and its builds must fit that of torch to the digit; spandrel needs it for two architectures only,
which scalewise refuses anyway: LaMa (inpainting: `InterpolationMode`, `rotate`) and RestoreFormer (faces: `normalize`).
"""

from __future__ import annotations

import enum
import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, NoReturn

NAMES = ("torchvision", "torchvision.transforms", "torchvision.transforms.functional")


class InterpolationMode(enum.Enum):
    NEAREST = "nearest"
    BILINEAR = "bilinear"
    BICUBIC = "bicubic"


def absent(*_: Any, **__: Any) -> NoReturn:
    raise RuntimeError("this architecture needs torchvision, which is not installed or does not fit torch")


def usable() -> bool:
    """True if the real torchvision loads."""
    try:
        importlib.import_module(NAMES[-1])
    except Exception:  # a build for another torch fails in many ways
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        return False
    return True


@contextmanager
def supplied() -> Iterator[None]:
    """`import spandrel` finds the names in the block. Others do not: a program that asks for torchvision later gets the
    error that it should get."""
    if usable():
        yield
        return
    modules = {name: ModuleType(name) for name in NAMES}
    functional = modules[NAMES[-1]]
    functional.__dict__.update(InterpolationMode=InterpolationMode, rotate=absent, normalize=absent)
    modules[NAMES[0]].__dict__.update(transforms=modules[NAMES[1]], __path__=[])
    modules[NAMES[1]].__dict__.update(functional=functional, __path__=[])
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name in NAMES:
            sys.modules.pop(name, None)
