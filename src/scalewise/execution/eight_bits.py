"""What a model computes with: its number type, or a copy of it in 8 bits, measured at first use and cached.

What 8 bits should span is measured on crops of photos that come with the package, and on the same crops in black and
white: text and line art have harder edges than photos, and are spoilt where their features are clipped.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from contextlib import suppress
from hashlib import sha256
from importlib import resources
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from scalewise import images
from scalewise.errors import InvalidRequest
from scalewise.execution.plan import RunOptions
from scalewise.machine.device import fast_int8, pick_dtype
from scalewise.models.digest import digest_of_model
from scalewise.models.model import InEightBits, Model
from scalewise.storage import cache_folder, read_cached, write_cached

CROP_SIDE = 64  # pixels of a crop, in rows and columns of which the picture of crops is made
VERSION = 1  # of what is cached

# The copy of a model object, and the digest of the weights that it was made of: a folder of pictures asks again and
# again, and a program may change weights in place, of which no version counter tells where that is done by `.data`.
_COPIES: MutableMapping[Any, tuple[str, Model]] = WeakKeyDictionary()


def number_type(model: Model, options: RunOptions, device: torch.device) -> tuple[Model, torch.dtype, tuple[str, ...]]:
    """The model to run, what its floating-point numbers are, and notes for the report. Raises InvalidRequest where
    8 bits are asked of a network that has none."""
    if options.dtype != "int8":
        return model, pick_dtype(options.dtype, device), ()
    dtype = pick_dtype("auto", device)
    if not isinstance(model, InEightBits):
        raise InvalidRequest(
            "int8 is only for networks with exits at any scale (fast, quality, photo), without a restoration: "
            "take bf16 or fp32 for this one"
        )
    if not takes_eight_bits(options, device):
        used = "bf16" if dtype == torch.bfloat16 else "fp32"
        return model, dtype, (f"int8 needs a processor with AVX512-VNNI and a torch that uses it: computed in {used}",)
    digest = digest_of_model(model)
    if model not in _COPIES or _COPIES[model][0] != digest:
        _COPIES[model] = digest, model.in_eight_bits(spans_of(model))
    return _COPIES[model][1], dtype, ()


def takes_eight_bits(options: RunOptions, device: torch.device) -> bool:
    """True if 8 bits are asked for, and the machine has them."""
    return options.dtype == "int8" and fast_int8(device)


def spans_of(model: InEightBits) -> Tensor:
    """What is cached for these weights and crops, else measured now. Raises InvalidRequest."""
    content = (resources.files("scalewise") / "weights" / "crops.png").read_bytes()
    known = {"version": VERSION, "crops": sha256(content).hexdigest()}
    path = cache_folder() / "int8" / f"{digest_of_model(model)}.json"  # pyright: ignore[reportArgumentType]
    shape = model.spans_shape
    cached = read_cached(path)
    with suppress(ValueError, TypeError, LookupError, RuntimeError):  # no table of numbers
        spans = torch.tensor(cached.pop("spans"), dtype=torch.float32)
        low, high = spans[:, 0::2], spans[:, 1::2]
        whole = spans.shape == shape and bool(((low <= 0) & (high >= 0) & (high - low).isfinite()).all())
        if cached == known and whole:
            return spans
    try:
        spans = model.spans(calibration(content))
    except ValueError:
        raise InvalidRequest(
            "int8: features of this network are not finite on photos: its weights are damaged"
        ) from None
    write_cached(path, known | {"spans": spans.tolist()})
    return spans


def calibration(content: bytes) -> Tensor:
    """The picture of crops → (b, 3, CROP_SIDE, CROP_SIDE): each one, and where it is brighter than its mean."""
    source = images.open(content)
    picture = source.read((0, 0, *source.size))
    crops = picture.unfold(1, CROP_SIDE, CROP_SIDE).unfold(2, CROP_SIDE, CROP_SIDE)
    crops = crops.permute(1, 2, 0, 3, 4).flatten(0, 1)
    return torch.cat((crops, (crops > crops.mean((1, 2, 3), keepdim=True)).float()))
