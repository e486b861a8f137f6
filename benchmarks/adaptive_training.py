"""What `tadt-liif-tiny` and `adaformer-x2-tiny` learnt: dB over bicubic, β by scale, and where halting leaves.

    python benchmarks/adaptive_training.py --val DIR [--tadt FILE] [--adaformer FILE] [--side 320] [--pictures DIR]

The weight files are what `scalewise train` leaves. dB: protocol default (Y, border ceil(scale), 8 bits) on the centres
of the photos in --val. `--pictures` draws tadt_beta.png and adaformer_halting.png there; `--photo` names the one shown.
Ends with exit code 1 if a network is not 0.3 dB over bicubic, β does not rise with the scale, or flat windows do not
get less than detailed ones.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from scalewise import zoo
from scalewise.budget.budget import Budget, Effort
from scalewise.data import decode_folder
from scalewise.encoders.tadt import TADT
from scalewise.evaluate import bicubic, find_protocol, make_lr, predict, score, upscaler_of
from scalewise.geometry.grid import Frame, rectangle
from scalewise.models.super_resolver import SuperResolver, pad_to_grid
from scalewise.routing.branch import THRESHOLD

WANTED = 0.3  # dB over bicubic
PROTOCOL = find_protocol("default")
SCALES = torch.linspace(1, 4, 25)


def centre(picture: Tensor, side: int) -> Tensor:
    """(3, h, w) uint8 → at most side × side, in [0, 1]."""
    top, left = (max(0, (n - side) // 2) for n in picture.shape[-2:])
    return picture[:, top : top + side, left : left + side].float() / 255


def pair(picture: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """The LR that the protocol makes, and the part of the picture that it shows."""
    h, w = (int(n / scale + 1e-9) for n in picture.shape[-2:])
    hr = picture[:, : round(h * scale), : round(w * scale)]
    return make_lr(hr, (h, w), scale, PROTOCOL), hr


def measured(name: str, model: SuperResolver, budgets: dict[str, Budget], scales: list[float], val: list[Tensor]):
    """Rows of the table; the gain over bicubic of each."""
    gains = []
    for scale in scales:
        pairs = [pair(picture, scale) for picture in val]
        floor = float(np.mean([of(bicubic, *one, scale)[0] for one in pairs]))
        for label, budget in budgets.items():
            found = [of(upscaler_of(model, budget), *one, scale) for one in pairs]
            psnr, share = (float(np.mean(column)) for column in zip(*found, strict=True))
            gains.append(psnr - floor)
            print(
                f"{name:10} x{scale:g}  {label:13} {psnr:6.2f} dB  bicubic {floor:6.2f}  {psnr - floor:+.2f}  ", end=""
            )
            print(f"MACs {share:.1%}", flush=True)
    return gains


@torch.no_grad()
def of(upscaler: Any, lr: Tensor, hr: Tensor, scale: float) -> tuple[float, float]:
    found = predict(upscaler, lr, (hr.shape[-2], hr.shape[-1]), scale, PROTOCOL)
    return score(found.sr.float(), hr, scale, PROTOCOL)["psnr"], found.macs / max(found.macs_full, 1)


@dataclass(frozen=True)
class Intensity:
    """By scale: β, and the encoder's MACs over those with all branches, the mean over pictures."""

    beta: list[float]
    share: list[float]


@torch.no_grad()
def intensities(model: SuperResolver, val: list[Tensor]) -> Intensity:
    """The same LR pictures (the centres, halved) at every scale, so that the scale alone changes."""
    trunk = model.encoder
    assert isinstance(trunk, TADT)
    lrs = [pad_to_grid((pair(picture, 2)[0][None] - model.mean) / model.std, model.grid) for picture in val]
    share = []
    for scale in SCALES.tolist():
        one = []
        for lr in lrs:
            size = (lr.shape[-2], lr.shape[-1])
            route = trunk.plan(lr, torch.full((1, 2), scale), Effort(native={"beta": 0.0}))
            one.append(trunk.macs(size, (scale, scale), route).total / trunk.macs(size, (scale, scale)).total)
        share.append(float(np.mean(one)))
    return Intensity(trunk.controller.intensity(SCALES[:, None].expand(-1, 2)).tolist(), share)


@torch.no_grad()
def kept(model: SuperResolver, lr: Tensor, epsilon: float = 0.05) -> Tensor:
    """lr (3, h, w) → (h, w): the share of the attention blocks that each token went through."""
    size = (lr.shape[-2], lr.shape[-1])
    query = rectangle(Frame(size), (size[0] * 2, size[1] * 2))
    route = model(lr[None], query, torch.full((1, 2), 2.0), Effort(native={"epsilon": epsilon})).route
    layers = [one.choice[0].float() for one in route if one.unit == "token"]
    return torch.stack(layers).mean(0)[: size[0], : size[1]]


def detail(lr: Tensor) -> Tensor:
    """(3, h, w) → (h, w): the absolute gradient of the gray picture."""
    gray = lr.mean(0)
    down = torch.nn.functional.pad(gray.diff(dim=0).abs(), (0, 0, 0, 1))
    right = torch.nn.functional.pad(gray.diff(dim=1).abs(), (0, 1))
    return down + right


def by_window(x: Tensor, side: int = 8) -> np.ndarray:
    return torch.nn.functional.avg_pool2d(x[None], side).flatten().numpy()


def quarters(model: SuperResolver, val: list[Tensor]) -> list[float]:
    """What windows keep, the mean of each quarter of them, from the flattest to the most detailed."""
    lrs = [pair(picture, 2)[0] for picture in val]
    flat = np.concatenate([by_window(detail(lr)) for lr in lrs])
    left = np.concatenate([by_window(kept(model, lr)) for lr in lrs])
    return [float(part.mean()) for part in np.array_split(left[flat.argsort()], 4)]


def draw_intensity(found: Intensity, out: Path) -> None:
    import matplotlib.pyplot as plt

    first, second, power = THRESHOLD
    figure, axis = plt.subplots(figsize=(6, 3.6), dpi=110)
    axis.plot(SCALES, found.beta, label="β of the controller")
    axis.plot(SCALES, found.share, label="MACs of the encoder over all branches on", drawstyle="steps-mid")
    axis.plot(SCALES, first + second * SCALES**power, ":", color="gray", label="where the price on β begins (Eq. 6)")
    axis.set(xlabel="scale", ylim=(0, 1.02), xlim=(1, 4))
    axis.legend(loc="lower right", fontsize=8)
    figure.tight_layout()
    figure.savefig(out)


def draw_halting(model: SuperResolver, photo: Tensor, out: Path) -> None:
    import matplotlib.pyplot as plt

    lr = pair(photo, 2)[0]
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.2, 3.4), dpi=90, layout="constrained")
    left.imshow(lr.permute(1, 2, 0).numpy())
    shown = right.imshow(kept(model, lr).numpy(), vmin=0, vmax=1, cmap="inferno", interpolation="nearest")
    left.set_title("the picture, before ×2", fontsize=9)
    right.set_title("share of the attention blocks a pixel stays in", fontsize=9)
    for axis in (left, right):
        axis.axis("off")
    figure.colorbar(shown, ax=right, shrink=0.8)
    figure.savefig(out)
    Image.open(out).convert("RGB").quantize(128).save(out, optimize=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--val", type=Path, required=True)
    parser.add_argument("--tadt", type=Path)
    parser.add_argument("--adaformer", type=Path)
    parser.add_argument("--side", type=int, default=320, help="HR pixels of the centres")
    parser.add_argument("--pictures", type=Path, help="draw the pictures to this folder")
    parser.add_argument("--photo", default="", help="part of the name of the photo that the halting map is of")
    given = parser.parse_args()
    names = sorted(path.name for path in given.val.iterdir())
    photos = decode_folder(given.val)
    val = [centre(picture, given.side) for picture in photos]
    fine = True
    if given.tadt:
        model = zoo.load(given.tadt).model
        assert isinstance(model, SuperResolver)
        budgets = {"all branches": Budget.full(), "its own β": Budget.native("beta", 0.0)}
        fine &= min(measured("TADT-LIIF", model, budgets, [2.0, 3.0, 4.0], val)) >= WANTED
        found = intensities(model, val)
        for scale, beta, share in list(zip(SCALES.tolist(), found.beta, found.share, strict=True))[::8]:
            print(f"TADT-LIIF  x{scale:g}  β {beta:.3f}  encoder MACs {share:.1%}")
        fine &= found.beta[-1] > found.beta[0] and found.share[-1] > found.share[0]
        if given.pictures:
            draw_intensity(found, given.pictures / "tadt_beta.png")
    if given.adaformer:
        model = zoo.load(given.adaformer).model
        assert isinstance(model, SuperResolver)
        budgets = {"nothing leaves": Budget.full(), "ε = 0.05": Budget.native("epsilon", 0.05)}
        fine &= min(measured("AdaFormer", model, budgets, [2.0], val)) >= WANTED
        shares = quarters(model, val)
        print("AdaFormer  kept, flattest to most detailed quarter of windows:", *(f"{one:.1%}" for one in shares))
        fine &= shares[0] < shares[-1]
        if given.pictures:
            place = next(i for i, name in enumerate(names) if given.photo in name)
            draw_halting(model, centre(photos[place], 2 * given.side), given.pictures / "adaformer_halting.png")
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
