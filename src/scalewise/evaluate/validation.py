"""What a training is measured by on its way: centres of pictures under a protocol, and a sheet of samples."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from scalewise import images
from scalewise.data import decode_folder
from scalewise.errors import DataError
from scalewise.evaluate.pairs import make_lr
from scalewise.evaluate.protocols import EvalProtocol, find_protocol
from scalewise.evaluate.runner import predict, score
from scalewise.evaluate.upscalers import Picture, bicubic, upscaler_of
from scalewise.execution.plan import RunOptions
from scalewise.training.recipe import Recipe

SHOWN = 3  # crops in a sample picture


@dataclass
class Validation:
    """Measures a model on the centres of pictures under a protocol, and saves some next to bicubic and the original.

    `__call__` gives "PROTOCOL xSCALE" → dB, and the gain over bicubic."""

    pictures: list[Picture]
    scales: tuple[float, ...]
    protocol: EvalProtocol
    out: Path
    floor: dict[float, float] = field(default_factory=dict)  # dB of bicubic

    @classmethod
    def of(cls, folder: Path, recipe: Recipe, protocol: str, side: int, out: Path) -> Validation:
        """Raises DataError and ProtocolMismatch before hours of training, not after."""
        how = find_protocol(protocol)
        pictures = []
        for picture in decode_folder(folder):
            top, left = ((n - side) // 2 if 0 < side < n else 0 for n in picture.shape[-2:])
            centre = picture[:, top : top + side or None, left : left + side or None] if side else picture
            pictures.append(centre.float() / 255)
        for scale in recipe.validate_at:
            how.check(scale)
        watch = cls(pictures, recipe.validate_at, how, out)
        if min(min(p.shape[-2:]) for p in pictures) < 8 * max(recipe.validate_at):
            raise DataError(f"pictures of {str(folder)!r} are too small to measure at x{max(recipe.validate_at):g}")
        return watch

    def __call__(self, model: nn.Module, step: int) -> Mapping[str, float]:
        device = str(next(model.parameters()).device)
        upscaler = upscaler_of(model, options=RunOptions(device=device))  # type: ignore[arg-type]
        found: dict[str, float] = {}
        rows: list[Tensor] = []
        for scale in self.scales:
            total, floor = 0.0, 0.0
            for number, (lr, hr) in enumerate(self.pair(picture, scale) for picture in self.pictures):
                size = (hr.shape[-2], hr.shape[-1])
                with torch.no_grad():
                    sr = predict(upscaler, lr, size, scale, self.protocol).sr.float()
                total += score(sr, hr[:, : sr.shape[-2], : sr.shape[-1]], scale, self.protocol)["psnr"]
                if scale not in self.floor or (number < SHOWN and scale == self.scales[-1]):
                    plain = predict(bicubic, lr, size, scale, self.protocol).sr
                    floor += score(plain, hr[:, : plain.shape[-2], : plain.shape[-1]], scale, self.protocol)["psnr"]
                    if number < SHOWN and scale == self.scales[-1] and sr.shape == hr.shape == plain.shape:
                        rows.append(torch.cat([plain, sr, hr], -1))
            self.floor.setdefault(scale, floor / len(self.pictures))
            name = f"{self.protocol.name} x{scale:g}"
            found[name] = total / len(self.pictures)
            found[f"{name} over bicubic"] = found[name] - self.floor[scale]
        self.show(rows, step)
        return found

    def pair(self, picture: Picture, scale: float) -> tuple[Picture, Picture]:
        """(lr, hr): the picture cropped as the protocol does, and the LR that the protocol makes of it."""
        h, w = (math.floor((n - n % self.protocol.multiple) / scale + 1e-9) for n in picture.shape[-2:])
        hr = picture[:, : round(h * scale), : round(w * scale)]
        return make_lr(hr, (h, w), scale, self.protocol), hr

    def show(self, rows: list[Tensor], step: int) -> None:
        """Bicubic, ours and the truth from left to right, one row for each picture."""
        if not rows:
            return
        folder = self.out / "pictures"
        folder.mkdir(exist_ok=True)
        width = min(row.shape[-1] for row in rows)
        sheet = torch.cat([row[..., :width] for row in rows if row.shape[-1] == width], -2)
        levels = (sheet.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
        images.save(folder / f"{step:07d}.png", levels, overwrite=True)
