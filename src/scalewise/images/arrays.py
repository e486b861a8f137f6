"""Pictures that are already in memory: numpy, PIL and torch in, the same kind out."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import numpy as np
import torch

from scalewise.errors import UnreadableImage
from scalewise.images.metadata.metadata import Metadata

Origin = Literal["path", "numpy", "pil", "torch"]


@dataclass(frozen=True)
class InMemory:
    """Pixels (h, w, 1 to 4) as uint8, uint16 or a float type, and the way back to the kind they came as."""

    origin: Origin
    pixels: np.ndarray
    restore: Callable[[np.ndarray], Any]  # (h, w, c) in native byte order → what the user had, in the user's dtype
    metadata: Metadata = field(default_factory=Metadata)


def from_memory(image: object) -> InMemory:
    """Recognise a numpy array, torch tensor or PIL image. Pillow is not imported unless the caller already has."""
    if isinstance(image, np.ndarray):
        return from_numpy(image)
    if isinstance(image, torch.Tensor):
        return from_torch(image)
    pil = sys.modules.get("PIL.Image")
    if pil is not None and isinstance(image, pil.Image):
        return from_pil(image)
    raise UnreadableImage(
        f"cannot read a {type(image).__name__}; allowed are a path, bytes, an open file, a numpy array, a PIL image, a "
        "torch tensor"
    )


def from_numpy(array: np.ndarray) -> InMemory:
    """(H, W) or (H, W, C), C 1 to 4; uint8, uint16 or float in [0, 1]; any byte order and strides."""
    if array.ndim not in (2, 3) or (array.ndim == 3 and not 1 <= array.shape[2] <= 4) or 0 in array.shape:
        raise UnreadableImage(f"numpy array has shape {array.shape}; allowed is (H, W) or (H, W, C) with C 1 to 4")
    if array.dtype.kind not in "uf" or array.dtype.newbyteorder("=") not in _DTYPES:
        raise UnreadableImage(f"numpy array has dtype {array.dtype}; allowed are uint8, uint16 and float in [0, 1]")
    flat = array.ndim == 2
    pixels = array[..., None] if flat else array
    check_range(pixels, "numpy array")
    return InMemory("numpy", pixels, partial(_as_numpy, flat, array.dtype))


def _as_numpy(flat: bool, dtype: np.dtype, pixels: np.ndarray) -> np.ndarray:
    return (pixels[..., 0] if flat else pixels).astype(dtype, copy=False)


def from_torch(tensor: torch.Tensor) -> InMemory:
    """(C, H, W), C 1 to 4; uint8, or any float type in [0, 1]; on any device, and the result comes back there."""
    if tensor.ndim != 3 or not 1 <= tensor.shape[0] <= 4 or 0 in tensor.shape:
        raise UnreadableImage(f"torch tensor has shape {tuple(tensor.shape)}; allowed is (C, H, W) with C 1 to 4")
    if tensor.dtype != torch.uint8 and not tensor.dtype.is_floating_point:
        raise UnreadableImage(f"torch tensor has dtype {tensor.dtype}; allowed are uint8 and float in [0, 1]")
    if tensor.layout != torch.strided or tensor.is_meta:
        kind = "meta" if tensor.is_meta else str(tensor.layout).removeprefix("torch.")
        raise UnreadableImage(f"torch tensor is {kind}: give a dense one that holds values")
    plain = tensor.detach().cpu()
    pixels = (plain if tensor.dtype == torch.uint8 else plain.float()).permute(1, 2, 0).numpy()
    check_range(pixels, "torch tensor")
    return InMemory("torch", pixels, partial(_as_torch, tensor.device, tensor.dtype))


def _as_torch(device: torch.device, dtype: torch.dtype, pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels).to(device, dtype).permute(2, 0, 1).contiguous()


def from_pil(image: Any) -> InMemory:
    """Modes 1, L, LA, P, RGB, RGBA and I;16. P comes back as RGB(A), 1 as L; EXIF orientation is applied."""
    from PIL import ImageOps

    if image.mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "I;16", "I;16B", "I;16L"):
        raise UnreadableImage(f"PIL image has mode {image.mode}; allowed are 1 L LA P RGB RGBA I;16: convert it first")
    try:
        orientation = image.getexif().get(0x0112, 1)
        image = ImageOps.exif_transpose(image)  # loads the pixels
    except (OSError, SyntaxError, ValueError) as error:
        raise UnreadableImage(f"PIL image cannot be read: {' '.join(str(error).split())}") from error
    info = image.info
    exif = image.getexif()
    x, y = info.get("dpi", (None, None))
    metadata = Metadata(
        icc=info.get("icc_profile"),
        exif=exif.tobytes() if len(exif) else None,
        xmp=info["xmp"] if isinstance(info.get("xmp"), bytes) else None,
        dpi=(float(x), float(y)) if x and y else None,
        orientation=orientation,
    )
    keep = {"icc_profile": metadata.icc, "exif": metadata.exif, "xmp": metadata.xmp, "dpi": metadata.dpi}

    if image.mode in ("P", "PA"):
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    elif image.mode == "1":
        image = image.convert("L")
    elif image.mode in ("L", "RGB") and "transparency" in info:  # one colour stands for transparent
        image = image.convert("LA" if image.mode == "L" else "RGBA")
    pixels = np.asarray(image)
    info = {key: value for key, value in keep.items() if value is not None}
    return InMemory("pil", pixels[..., None] if pixels.ndim == 2 else pixels, partial(as_pil, info), metadata)


def as_pil(info: dict[Any, Any], pixels: np.ndarray) -> Any:
    """A PIL image of pixels (h, w, c): uint8, or uint16 of one channel."""
    from PIL import Image

    result = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    result.info.update(info)
    return result


def batch_of(image: object) -> list[Any] | None:
    """The pictures of a batch (N, C, H, W), each of the kind that `upscale` takes; None for what is no batch. Raises
    UnreadableImage."""
    if not isinstance(image, np.ndarray | torch.Tensor) or image.ndim != 4:
        return None
    shape = tuple(image.shape)
    if not 1 <= shape[1] <= 4 or 0 in shape:
        hint = ": transpose it by (0, 3, 1, 2)" if 1 <= shape[3] <= 4 and 0 not in shape else ""
        raise UnreadableImage(f"batch has shape {shape}; allowed is (N, C, H, W) with C 1 to 4{hint}")
    return [np.moveaxis(one, 0, -1) if isinstance(one, np.ndarray) else one for one in image]


def as_batch(pictures: list[Any]) -> Any:
    """Pictures as `batch_of` gives them, as one batch again."""
    if isinstance(pictures[0], torch.Tensor):
        return torch.stack(pictures)
    return np.stack([np.moveaxis(one, -1, 0) for one in pictures])


def check_range(pixels: np.ndarray, name: str) -> None:
    """Float pixels must lie in [0, 1]: 0 to 255 in a float array is the usual mistake, and NaN would spread."""
    if pixels.dtype.kind != "f":
        return
    low, high = float(pixels.min()), float(pixels.max())
    if math.isnan(low):
        raise UnreadableImage(f"{name} holds values that are not numbers (NaN); allowed is [0, 1]")
    if not (low >= 0 and high <= 1):
        raise UnreadableImage(
            f"{name} holds float values from {low:.9g} to {high:.9g}; allowed is [0, 1]: scale or clip"
        )


_DTYPES = (np.uint8, np.uint16, np.float16, np.float32, np.float64)
