"""What small routed networks learnt: dB over bicubic, the share of each option, and whether content decides.

    python benchmarks/adaptive_training.py --val DIR FILE... [--pano DIR] [--budgets 100%,75%,50%] [--pictures DIR]

FILE is what `scalewise train` leaves. dB: protocol default (Y, border ceil(scale), 8 bits) on the centres of the photos
in --val; networks for 360° images by WS-PSNR (protocol odi, around the sphere) on the panoramas in --pano at 1024×512.
Options: the share of patches on each path, of windows, tokens and branches that ran. Also TADT's β by scale, what
AdaFormer keeps of flat and of detailed windows, and for CAMixerSR the rank correlation of every layer's scores with the
texture (standard deviation of gray) of the LR windows of all photos together. `--pictures` draws tadt_beta.png and
adaformer_halting.png there; `--photo` names the one shown.

Ends with exit code 1 if a network is not 0.3 dB over bicubic, if β does not rise with the scale, if flat windows keep
as much as detailed ones, or if a repaired predictor's correlation is below 0.5 or it loses by a larger budget.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from scalewise import zoo
from scalewise.budget.budget import Budget, Effort
from scalewise.budget.route import Route
from scalewise.data import decode_folder
from scalewise.encoders.adaformer import AdaFormer
from scalewise.encoders.camixer import CAMixer
from scalewise.encoders.camixer_odi import CAMixerODI
from scalewise.encoders.tadt import TADT
from scalewise.errors import BudgetInfeasible
from scalewise.evaluate import (
    EvalProtocol,
    Upscaler,
    bicubic,
    find_protocol,
    make_lr,
    predict,
    score,
    upscaler_of,
    wrapped,
)
from scalewise.evaluate.figures import SCALES, draw_scales, intensities, routes, save
from scalewise.geometry.grid import Frame, rectangle
from scalewise.geometry.resize import imresize
from scalewise.models.super_resolver import SuperResolver

WANTED_DB = 0.3  # over bicubic
WANTED_RANK = 0.5
SLACK = 0.005  # dB by which a larger budget may be worse: less than the second digit that is printed
PROTOCOL = find_protocol("default")


def centre(picture: Tensor, side: int) -> Tensor:
    """(3, h, w) uint8 → at most side × side, in [0, 1]."""
    top, left = (max(0, (n - side) // 2) for n in picture.shape[-2:])
    return picture[:, top : top + side, left : left + side].float() / 255


def pair(picture: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """The LR that the protocol makes, and the part of the picture that it shows."""
    h, w = (int(n / scale + 1e-9) for n in picture.shape[-2:])
    hr = picture[:, : round(h * scale), : round(w * scale)]
    return make_lr(hr, (h, w), scale, PROTOCOL), hr


def shares(found: list[Route]) -> str:
    """Of each option, by unit: over all decisions of all pictures."""
    words = []
    for unit in dict.fromkeys(one.unit for route in found for one in route):
        choices = torch.cat([one.choice.flatten() for route in found for one in route if one.unit == unit])
        options = max(one.cost.shape[0] for route in found for one in route if one.unit == unit)
        parts = torch.bincount(choices, minlength=options) / len(choices)
        words.append(f"{unit} " + " / ".join(f"{float(part):.0%}" for part in parts))
    return ", ".join(words)


def rank(x: np.ndarray) -> np.ndarray:
    """Ranks, those of equals averaged."""
    _, place, count = np.unique(x, return_inverse=True, return_counts=True)
    return (count.cumsum() - (count - 1) / 2)[place]


def correlations(model: SuperResolver, lrs: list[Tensor]) -> list[float]:
    """Spearman's, of every layer's scores with the texture of the windows they judge; all windows of all pictures."""
    scores, texture = [], []
    for lr in lrs:
        lr = lr[:, : lr.shape[-2] // 16 * 16, : lr.shape[-1] // 16 * 16]
        scores.append(torch.stack([one.evidence[0].flatten() for one in routes(model, lr, 2.0, Budget.fraction(0.75))]))  # type: ignore[index]
        texture.append(lr.mean(0).unfold(0, 16, 16).unfold(1, 16, 16).flatten(0, 1).flatten(1).std(1))
    against = rank(torch.cat(texture).numpy())
    return [float(np.corrcoef(rank(layer.numpy()), against)[0, 1]) for layer in torch.cat(scores, 1)]


@torch.no_grad()
def stays(model: SuperResolver, lr: Tensor, epsilon: float = 0.05) -> Tensor:
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
    left = np.concatenate([by_window(stays(model, lr)) for lr in lrs])
    return [float(part.mean()) for part in np.array_split(left[flat.argsort()], 4)]


def draw_halting(model: SuperResolver, photo: Tensor, out: Path) -> None:
    import matplotlib.pyplot as plt

    lr = pair(photo, 2)[0]
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.2, 3.4), dpi=90, layout="constrained")
    left.imshow(lr.permute(1, 2, 0).numpy())
    shown = right.imshow(stays(model, lr).numpy(), vmin=0, vmax=1, cmap="inferno", interpolation="nearest")
    left.set_title("the picture, before ×2", fontsize=9)
    right.set_title("share of the attention blocks a pixel stays in", fontsize=9)
    for axis in (left, right):
        axis.axis("off")
    figure.colorbar(shown, ax=right, shrink=0.8)
    figure.savefig(out)
    Image.open(out).convert("RGB").quantize(128).save(out, optimize=True)


@dataclass(frozen=True)
class Measured:
    """The LR and HR pictures of a network's scale, and how their upscaling is scored."""

    pairs: list[tuple[Tensor, Tensor]]
    scale: float
    protocol: EvalProtocol
    metric: str

    def score(self, upscaler: Upscaler) -> tuple[float, float]:
        """The mean dB, and the mean share of the MACs."""
        upscaler = wrapped(upscaler) if self.metric == "ws_psnr" else upscaler
        found = [
            predict(upscaler, lr, (hr.shape[-2], hr.shape[-1]), self.scale, self.protocol) for lr, hr in self.pairs
        ]
        values = [
            score(one.sr.float(), hr, self.scale, self.protocol)[self.metric]
            for one, (_, hr) in zip(found, self.pairs, strict=True)
        ]
        return float(np.mean(values)), float(np.mean([one.macs / max(one.macs_full, 1) for one in found]))


def pictures_for(model: Any, scale: float, photos: list[Tensor], pano: Path | None) -> Measured:
    """Centres of photos; for networks of 360° images panoramas at 1024×512."""
    if not isinstance(getattr(model, "encoder", None), CAMixerODI):
        return Measured([pair(photo, scale) for photo in photos], scale, PROTOCOL, "psnr")
    if pano is None:
        sys.exit("this network is for 360° images: give them by --pano DIR")
    protocol = find_protocol("odi")
    turns = [imresize(picture.float() / 255, (512, 1024)).clamp(0, 1) for picture in decode_folder(pano)]
    hrs = [(picture * 255).round() / 255 for picture in turns]
    size = (int(512 / scale), int(1024 / scale))
    return Measured([(make_lr(hr, size, scale, protocol), hr) for hr in hrs], scale, protocol, "ws_psnr")


def gains_of(name: str, model: Any, measured: Measured, budgets: list[tuple[str, Budget]]) -> list[float]:
    """Prints a row for each budget; the gains over bicubic."""
    floor, gains = measured.score(bicubic)[0], []
    for text, budget in budgets:
        try:
            found, share = measured.score(upscaler_of(model, budget))
        except BudgetInfeasible as error:
            print(f"{name:22} {text:>13}  below the floor, {error.floor:.1%}")
            continue
        taken = shares([routes(model, lr, measured.scale, budget) for lr, _ in measured.pairs])
        gains.append(found - floor)
        print(
            f"{name:22} x{measured.scale:g} {text:>13}  {found:6.2f} dB  bicubic {floor:6.2f}  {found - floor:+.3f}  "
            f"MACs {share:.1%}  {taken}", flush=True,
        )  # fmt: skip
    return gains


def learnt(name: str, model: Any, photos: list[Tensor], measured: Measured, gains: list[float]) -> bool:
    """Prints what this kind of network should have learnt; whether it has."""
    encoder = getattr(model, "encoder", None)
    if isinstance(encoder, TADT):
        found = intensities(model, [pair(photo, 2)[0] for photo in photos])
        for scale, beta, share in list(zip(SCALES, found.beta, found.share, strict=True))[::8]:
            print(f"{name:22} x{scale:g}  β {beta:.3f}  encoder MACs {share:.1%}")
        return found.beta[-1] > found.beta[0] and found.share[-1] > found.share[0]
    if isinstance(encoder, AdaFormer):
        parts = quarters(model, photos)
        print(f"{name:22} attention by quarter of windows, flattest first:", *(f"{one:.1%}" for one in parts))
        return parts[0] < parts[-1]
    if isinstance(encoder, CAMixer):
        layers = correlations(model, [lr for lr, _ in measured.pairs])
        print(f"{name:22} rank correlation with texture, by layer:", *(f"{one:+.2f}" for one in layers), end="")
        print(f"; mean {np.mean(layers):+.2f}", flush=True)
        if encoder.blocks[0].mixer.predictor.kind == "repaired":
            rising = all(more >= less - SLACK for more, less in pairwise(gains))
            return rising and float(np.mean(layers)) >= WANTED_RANK
    return True


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--val", type=Path, required=True)
    parser.add_argument("--pano", type=Path)
    parser.add_argument("--budgets", default="100%,75%,50%")
    parser.add_argument("--native", default="", help="also at a paper's own dial, as eta=2")
    parser.add_argument("--side", type=int, default=320, help="HR pixels of the centres")
    parser.add_argument("--pictures", type=Path, help="draw the pictures to this folder")
    parser.add_argument("--photo", default="", help="part of the name of the photo that the halting map is of")
    given = parser.parse_args()
    names = sorted(path.name for path in given.val.iterdir())
    decoded = decode_folder(given.val)
    photos = [centre(picture, given.side) for picture in decoded]
    budgets = [(text, Budget.parse(text)) for text in given.budgets.split(",")]
    if given.native:
        dial, value = given.native.split("=")
        budgets.append((given.native, Budget.native(dial, float(value))))
    fine = True
    for file in given.files:
        model: Any = zoo.load(file).model
        found = []
        for scale in getattr(model, "scales", None) or (2.0, 3.0, 4.0):
            measured = pictures_for(model, float(scale), photos, given.pano)
            gains = gains_of(file.stem, model, measured, budgets)
            fine &= gains[0] >= WANTED_DB
            found.append((measured, gains))
        fine &= learnt(file.stem, model, photos, *found[-1])
        if given.pictures and isinstance(model.encoder, TADT):
            halved = [pair(photo, 2)[0] for photo in photos]
            save(draw_scales({file.stem: intensities(model, halved)}), given.pictures / "tadt_beta.png")
        if given.pictures and isinstance(model.encoder, AdaFormer):
            place = next(i for i, name in enumerate(names) if given.photo in name)
            draw_halting(model, centre(decoded[place], 2 * given.side), given.pictures / "adaformer_halting.png")
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
