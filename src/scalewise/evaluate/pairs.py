"""On what it is measured: pairs of pictures, found in the usual layouts of data folders."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from scalewise import images
from scalewise.errors import DataError, ProtocolMismatch
from scalewise.evaluate.metrics import eight_bit
from scalewise.evaluate.protocols import EvalProtocol
from scalewise.evaluate.upscalers import Picture
from scalewise.geometry.grid import Size
from scalewise.geometry.projection import fisheye_shrink
from scalewise.geometry.resize import imresize, pillow_bicubic


@dataclass(frozen=True)
class Pair:
    """One HR picture and its published LR, if there is one."""

    name: str
    hr: Path
    lr: Path | None = None


def find_pairs(data: Path | str, scale: float) -> list[Pair]:
    """The pictures of a data folder, sorted by name, in any of the usual layouts.

    `HR` next to `LR_bicubic/X4` (or `LR/X4`, `LR_fisheye/X4`; HR may hold `X4` too), `GTmod12` next to `LRbicx4`,
    `image_SRF_4/*_HR.png`, `DIV2K_valid_HR` next to `DIV2K_valid_LR_bicubic/X4`, or just pictures.
    """
    data, tag = Path(data), f"{scale:g}"
    if not data.is_dir():
        raise DataError(f"no folder {str(data)!r}: give a folder of HR pictures, or one with HR and LR_bicubic/X{tag}")
    beside_lr = next((path for path in sorted(data.glob("*_HR")) if path.is_dir()), None)
    if (data / "HR").is_dir():
        hr = data / "HR" / f"X{tag}" if (data / "HR" / f"X{tag}").is_dir() else data / "HR"
        lr = _first_folder(data / kind / f"X{tag}" for kind in ("LR_bicubic", "LR", "LR_fisheye"))
    elif (data / "GTmod12").is_dir():
        hr, lr = data / "GTmod12", _first_folder([data / f"LRbicx{tag}"])
    elif list(data.glob("image_SRF_*")):
        return _srf_pairs(data, tag)
    elif beside_lr is not None:
        hr, lr = beside_lr, _first_folder([data / f"{beside_lr.name[:-3]}_LR_bicubic" / f"X{tag}"])
    else:
        hr, lr = data, None
    return [Pair(path.stem, path, _lr_of(path, lr, tag)) for path in find_pictures(hr)]


def _first_folder(candidates: Any) -> Path | None:
    return next((path for path in candidates if path.is_dir()), None)


def find_pictures(folder: Path) -> list[Path]:
    """The pictures of one folder, sorted by name. Raises DataError if there are none."""
    files = (path for path in folder.iterdir() if not path.name.startswith(".")) if folder.is_dir() else ()
    found = sorted(path for path in files if path.suffix.lower() in images.READABLE)
    if not found:
        raise DataError(f"no pictures in {str(folder)!r}: it should hold {', '.join(sorted(images.READABLE))}")
    return found


def _lr_of(hr: Path, folder: Path | None, tag: str) -> Path | None:
    if folder is None:
        return None
    names = [f"{hr.stem}x{tag}{hr.suffix}", f"{hr.stem}x{tag}.png", hr.name, f"{hr.stem}.png"]
    found = next((folder / name for name in names if (folder / name).is_file()), None)
    if found is None:
        raise ProtocolMismatch(f"{folder} lacks {names[0]}, the LR of {hr.name}: add it, or give the HR folder alone")
    return found


def _srf_pairs(data: Path, tag: str) -> list[Pair]:
    folder = data / f"image_SRF_{tag}"
    highs = sorted(folder.glob("*_HR.*")) if folder.is_dir() else []
    if not highs:
        there = ", ".join(path.name for path in sorted(data.glob("image_SRF_*")))
        raise ProtocolMismatch(f"no image_SRF_{tag}/*_HR.png in {data}; there is {there}")
    pairs = []
    for high in highs:
        low = high.with_name(high.name.replace("_HR.", "_LR."))
        if not low.is_file():
            raise ProtocolMismatch(f"{folder} lacks {low.name}, the LR of {high.name}: add it")
        pairs.append(Pair(high.stem.removesuffix("_HR"), high, low))
    return pairs


def read_picture(path: Path) -> Picture:
    """(3, h, w) in [0, 1]. Raises ImageError."""
    source = images.open(path)
    return source.read((0, 0, *source.size))


def load_pair(pair: Pair, scale: float, protocol: EvalProtocol) -> tuple[Picture, Picture]:
    """(lr, hr) as the protocol wants them: HR cropped, LR given or made. Raises ImageError, ProtocolMismatch."""
    hr = read_picture(pair.hr)
    if protocol.projection == "erp" and hr.shape[-1] != 2 * hr.shape[-2]:
        raise ProtocolMismatch(
            f"protocol {protocol.name} is for equirectangular pictures, twice as wide as high; "
            f"{pair.hr.name} is {hr.shape[-1]}x{hr.shape[-2]}"
        )
    strict = protocol.given_up_to is not None and scale <= protocol.given_up_to
    if strict and pair.lr is None:
        raise ProtocolMismatch(
            f"protocol {protocol.name} takes the published LR at x{scale:g} and there is none for {pair.hr.name}: "
            f"add LR_bicubic/X{scale:g}, or use the protocol default, which makes it"
        )
    if pair.lr is not None and (protocol.given_up_to is None or strict):
        lr = read_picture(pair.lr)
        size = _hr_size(hr, lr, scale, pair)
    else:
        lr, size = None, (hr.shape[-2], hr.shape[-1])
    h, w = (math.floor((n - n % protocol.multiple) / scale + 1e-9) for n in size)
    if lr is not None and protocol.multiple == 1:
        h, w = lr.shape[-2:]  # at fractional scales the floor may lie one below
    if min(h, w) < 1:
        raise ProtocolMismatch(f"{pair.hr.name} is too small for {protocol.name} at x{scale:g}: {tuple(hr.shape[1:])}")
    hr = hr[:, : max(1, round(h * scale)), : max(1, round(w * scale))]
    return (make_lr(hr, (h, w), scale, protocol) if lr is None else lr[:, :h, :w]), hr


def make_lr(hr: Picture, size: Size, scale: float, protocol: EvalProtocol) -> Picture:
    """The LR that a protocol makes from a cropped HR, at 8-bit levels."""
    if protocol.lr_source == "fisheye":
        return eight_bit(fisheye_shrink(hr, int(scale)))
    if protocol.lr_source == "pillow":
        levels = (eight_bit(hr) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
        return torch.from_numpy(pillow_bicubic(levels, size).copy()).permute(2, 0, 1).float() / 255
    return eight_bit(imresize(hr, size))


def _hr_size(hr: Picture, lr: Picture, scale: float, pair: Pair) -> Size:
    """LR times scale, which the HR must cover with less than one crop step (12, or the scale) to spare."""
    size = round(lr.shape[-2] * scale), round(lr.shape[-1] * scale)
    for n, target in zip(hr.shape[-2:], size, strict=True):
        if not target <= n < target + max(12, math.ceil(scale)):
            raise ProtocolMismatch(
                f"{pair.hr.name}: LR {lr.shape[-1]}x{lr.shape[-2]} times {scale:g} is {size[1]}x{size[0]}, but HR is "
                f"{hr.shape[-1]}x{hr.shape[-2]}: not a pair of scale {scale:g}"
            )
    return size
