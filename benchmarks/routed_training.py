"""What tiny siblings with routes learnt: dB over bicubic, the share of each option, and whether content decides.

    python benchmarks/routed_training.py --val DIR FILE... [--pano DIR] [--budgets 100%,75%,50%] [--side 320]

FILE is what `scalewise train` leaves. dB: protocol default (Y, border ceil(scale), 8 bits) on the centres of the photos
in --val; networks for 360° images by WS-PSNR (protocol odi, around the sphere) on the panoramas in --pano at 1024×512.
Options: the share of patches on each path, of windows and tokens that were kept. For CAMixerSR also the rank
correlation of every layer's scores with the texture (standard deviation of gray) of the LR windows of all photos
together. Ends with exit code 1 if a network is not 0.3 dB over bicubic, or if a repaired predictor does not reach 0.5
on average or loses by a larger budget.
"""

from __future__ import annotations

import argparse
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from adaptive_training import WANTED, centre, pair
from torch import Tensor

from scalewise import zoo
from scalewise.budget.budget import Budget
from scalewise.budget.route import Route
from scalewise.data import decode_folder
from scalewise.encoders.camixer import CAMixer
from scalewise.encoders.camixer_odi import CAMixerODI
from scalewise.errors import BudgetInfeasible
from scalewise.evaluate import bicubic, find_protocol, make_lr, predict, score, upscaler_of, wrapped
from scalewise.geometry.grid import Frame
from scalewise.geometry.resize import imresize
from scalewise.models.model import Model
from scalewise.models.super_resolver import SuperResolver

WANTED_RANK = 0.5
SLACK = 0.005  # dB by which a larger budget may be worse: less than the second digit that is printed


def routes(model: Model, lr: Tensor, scale: float, budget: Budget) -> Route:
    """All decisions of one picture, run as a whole."""
    size = (lr.shape[-2], lr.shape[-1])
    out = (round(size[0] * scale), round(size[1] * scale))
    plan = model.plan(model.score(lr[None], (scale, scale)), size, out, budget)
    return plan.route + model.render(lr[None], Frame(size), (0, 0, *size), out, plan).route


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


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--val", type=Path, required=True)
    parser.add_argument("--pano", type=Path)
    parser.add_argument("--budgets", default="100%,75%,50%")
    parser.add_argument("--native", default="", help="also at a paper's own dial, as eta=2")
    parser.add_argument("--side", type=int, default=320, help="HR pixels of the centres")
    given = parser.parse_args()
    photos = [centre(picture, given.side) for picture in decode_folder(given.val)]
    fine = True
    for file in given.files:
        model = zoo.load(file).model
        scale = float((getattr(model, "scales", None) or (2,))[0])
        sphere = isinstance(getattr(model, "encoder", None), CAMixerODI)
        if sphere:
            protocol, metric = find_protocol("odi"), "ws_psnr"
            turns = [
                imresize(photo.float() / 255, (512, 1024)).clamp(0, 1)
                for photo in (decode_folder(given.pano) if sphere else [])
            ]
            turns = [(picture * 255).round() / 255 for picture in turns]
            pairs = [(make_lr(hr, (int(512 / scale), int(1024 / scale)), scale, protocol), hr) for hr in turns]
        else:
            protocol, metric = find_protocol("default"), "psnr"
            pairs = [pair(photo, scale) for photo in photos]

        def measured(upscaler, pairs=pairs, scale=scale, protocol=protocol, metric=metric) -> tuple[float, float]:
            found = [predict(upscaler, lr, (hr.shape[-2], hr.shape[-1]), scale, protocol) for lr, hr in pairs]
            values = [
                score(one.sr.float(), hr, scale, protocol)[metric] for one, (_, hr) in zip(found, pairs, strict=True)
            ]
            return float(np.mean(values)), float(np.mean([one.macs / max(one.macs_full, 1) for one in found]))

        floor = measured(wrapped(bicubic) if sphere else bicubic)[0]
        budgets = [(text, Budget.parse(text)) for text in given.budgets.split(",")]
        if given.native:
            dial, value = given.native.split("=")
            budgets.append((given.native, Budget.native(dial, float(value))))
        gains = []
        for text, budget in budgets:
            try:
                upscaler = upscaler_of(model, budget)
                found, share = measured(wrapped(upscaler) if sphere else upscaler)
                of = shares([routes(model, lr, scale, budget) for lr, _ in pairs])
            except BudgetInfeasible as error:
                print(f"{file.stem:22} {text:>8}  below the floor, {error.floor:.1%}")
                continue
            gains.append(found - floor)
            print(
                f"{file.stem:22} x{scale:g} {text:>8}  {found:6.2f} dB  bicubic {floor:6.2f}  {found - floor:+.3f}  "
                f"MACs {share:.1%}  {of}", flush=True,
            )  # fmt: skip
        fine &= gains[0] >= WANTED
        if isinstance(model, SuperResolver) and isinstance(model.encoder, CAMixer):
            layers = correlations(model, [lr for lr, _ in pairs])
            print(
                f"{file.stem:22} rank correlation with texture, by layer:", *(f"{one:+.2f}" for one in layers), end=""
            )
            print(f"; mean {np.mean(layers):+.2f}", flush=True)
            if model.encoder.blocks[0].mixer.predictor.kind == "repaired":
                fine &= float(np.mean(layers)) >= WANTED_RANK
                fine &= all(more >= less - SLACK for more, less in pairwise(gains))
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
