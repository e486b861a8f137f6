"""Upsamplers, encoders and routers against each other: trained alike, then PSNR against seconds on this CPU.

    python benchmarks/bakeoff.py train --pictures DIR --seconds 60 --out runs/bakeoff [--only NAME …]
    python benchmarks/bakeoff.py score --data DIR --out runs/bakeoff [--threads 2] [--only NAME …]
    python benchmarks/bakeoff.py time --out runs/bakeoff [--threads 2]    on a quiet machine
    python benchmarks/bakeoff.py table --out runs/bakeoff [--plot docs/images/bakeoff.png]

Training: each entrant has the same seconds on one device after three steps to warm up, the same pictures, batches of 16
crops of 48×48 LR pixels, AdamW from 5e-4 along a cosine, gradients clipped at 0.5, averaged weights, bf16 (CAMixerSR in
fp32), no CUDA graphs. All but CARN-M and ENAF add to the bilinear picture, as ours add to the bicubic one. Networks
with several stages share the seconds among them.

Score: protocol `default` (Y, shave ⌈scale⌉, 8 bits) on the pictures of --data at ×2, ×2.7, ×3, ×4 and ×6. Time: seconds
per output megapixel of one picture of 320×180 LR pixels, median of --repeats. Both in bf16 where the machine is good at
it. Networks for ×4 are resampled elsewhere, as `scalewise upscale` does it. Routed ones at 100% and at 50%. What is
there is skipped.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from scalewise.checkpoints.spec import Network, Pair, Spec, spec, tail
from scalewise.data import AnyScaleCrops
from scalewise.data.resident import Pictures
from scalewise.encoders.camixer import CAMixer
from scalewise.encoders.cat import CAT
from scalewise.encoders.edsr import EDSR
from scalewise.encoders.elan import ELAN
from scalewise.encoders.nlsa import NLSA
from scalewise.encoders.rcan import RCAN
from scalewise.encoders.rdn import RDN
from scalewise.encoders.swinir import SwinIR
from scalewise.encoders.tadt import TADT
from scalewise.recipes.adaformer import ADAFORMER_X4
from scalewise.recipes.camixer import REPAIRED
from scalewise.recipes.edsr import EDSR_X4
from scalewise.recipes.enaf import ENAF_CARN
from scalewise.recipes.fast import FAST, QUALITY, exits_of
from scalewise.recipes.fixed import CARN_X4, SRRESNET_X4
from scalewise.recipes.pairs import ADD_TO_THE_PICTURE, pair_recipe
from scalewise.recipes.tadt import TADT_LIIF
from scalewise.training.device_loop import WARM_STEPS, DeviceTraining, load_pictures
from scalewise.training.losses.exits import ExitLoss
from scalewise.training.losses.pixel import l1
from scalewise.training.recipe import Buildable, Recipe
from scalewise.training.stage import Stage, cosine
from scalewise.upsamplers.ciaosr import CiaoSR
from scalewise.upsamplers.fixed import DirectShuffle
from scalewise.upsamplers.itsrn import ITSRN
from scalewise.upsamplers.liif import LIIF
from scalewise.upsamplers.lte import LTE
from scalewise.upsamplers.metasr import MetaSR

SCALES = (2.0, 2.7, 3.0, 4.0, 6.0)
ANY = AnyScaleCrops(lr_side=48, points=48, layout="rows")
ONE = replace(ANY, unequal=0.0)  # Meta-SR knows one scale for both axes
BASED = replace(ANY, base=True)
TIMES_4 = replace(ONE, points=192, scales=(4.0, 4.0))  # all rows and columns: whole crops
STAGE = Stage(
    "l1", 1, ANY, l1, batch=16, learning_rate=5e-4, schedule=cosine, warmup=100, betas=(0.9, 0.99), decay=1e-5,
    clip=0.5, ema=0.999,
)  # fmt: skip
ROUTED = (1.0, 0.5)  # budgets


@dataclass(frozen=True)
class Entrant:
    """`group`: what it is compared for; `recipe`; whether a budget changes what it does."""

    group: str
    recipe: Recipe
    routed: bool = False


def pair(encoder: str, upsampler: str, trunk: Spec[nn.Module], upsampling: Spec[nn.Module]) -> Recipe:
    stage = replace(STAGE, samples=ONE if upsampler == "metasr" else ANY)
    of = Pair(trunk, upsampling, base=None if upsampler in ADD_TO_THE_PICTURE else "bilinear")
    return replace(pair_recipe(encoder, upsampler), network=of, stages=(stage,))


def exits(recipe: Recipe, of: Network | None = None, shares: tuple[float, ...] = ()) -> Recipe:
    """Ours, with the stage that all have; `shares` of the exits in the loss, if they are others than the recipe's."""
    learn, *_, route = recipe.stages
    loss = learn.loss if not shares else ExitLoss(shares)
    learn = replace(STAGE, name="exits", steps=85, samples=BASED, loss=loss, trains=learn.trains)
    route = replace(route, steps=15, samples=replace(BASED, lr_side=96, points=96))
    return replace(recipe, network=of or recipe.network, stages=(learn, route))


def fixed(recipe: Recipe) -> Recipe:
    return replace(recipe, stages=(replace(STAGE, samples=TIMES_4),))


def staged(recipe: Recipe, of: Buildable, stages: Sequence[tuple[Stage, int]], samples: AnyScaleCrops) -> Recipe:
    """A network with losses of its own: its stages, each with its share of the time, and what all have."""
    own = [
        replace(STAGE, name=s.name, steps=share, samples=samples, loss=s.loss, trains=s.trains, exact=s.exact)
        for s, share in stages
    ]
    return replace(recipe, network=of, stages=tuple(own))


EDSR_S = spec(EDSR, channels=64, blocks=8)
LTE_S = tail(LTE, hidden_dim=64, mlp=(64, 64))
LIIF_S = tail(LIIF, hidden=(64, 64))
UPSAMPLERS_S: Mapping[str, Spec[nn.Module]] = {
    "metasr": tail(MetaSR, hidden=64),
    "liif": LIIF_S,
    "lte": LTE_S,
    "itsrn": tail(ITSRN, hidden=(64, 32)),
    "ciaosr": tail(CiaoSR, hidden=(64, 64)),
}
ENCODERS_S: Mapping[str, Spec[nn.Module]] = {
    "rdn": spec(RDN, channels=64, blocks=4, layers=4, growth=32),
    "rcan": spec(RCAN, channels=64, groups=2, blocks=4, width=64),
    "nlsa": spec(NLSA, channels=64, blocks=8, res_scale=1.0, chunk=144, hashes=2),
    "swinir": spec(SwinIR, embed=60, depths=(6, 6), heads=(6, 6), features=64, drop_path=0.0),
    "cat": spec(CAT, embed=60, depths=(4, 4), heads=(6, 6), splits=((4, 16),) * 2, features=64, drop_path=0.0),
    "elan": spec(ELAN, channels=60, depth=12),
}
CAMIXER = Pair(
    spec(CAMixer, predictor="repaired"), tail(DirectShuffle, scale=4), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0),
    base="bilinear",
)  # fmt: skip
TADT_S = Pair(spec(TADT, channels=64, groups=2), LIIF_S, base="bilinear")


def on_bilinear(recipe: Recipe) -> Pair:
    """Its network as a residual on bilinear interpolation."""
    assert isinstance(recipe.network, Pair)
    return replace(recipe.network, base="bilinear")


ADAFORMER = on_bilinear(ADAFORMER_X4)
EDSR_OWN = replace(EDSR_X4, network=on_bilinear(EDSR_X4))
ENTRANTS: dict[str, Entrant] = {
    **{f"edsr-{name}": Entrant("upsampler", pair("edsr", name, EDSR_S, sizes)) for name, sizes in UPSAMPLERS_S.items()},
    "separable": Entrant("upsampler", exits(FAST, exits_of(64, (8,), (5,)), (1.0,))),
    **{f"{name}-lte": Entrant("encoder", pair(name, "lte", sizes, LTE_S)) for name, sizes in ENCODERS_S.items()},
    "edsr-m-lte": Entrant("size M", pair("edsr", "lte", spec(EDSR, channels=64, blocks=16), tail(LTE))),
    "carn-x4": Entrant("own tail", fixed(CARN_X4)),
    "srresnet-x4": Entrant("own tail", fixed(SRRESNET_X4)),
    "edsr-x4": Entrant("own tail", fixed(EDSR_OWN)),
    "exits": Entrant("router", exits(FAST), routed=True),
    "exits-m": Entrant("size M", exits(QUALITY), routed=True),
    "camixer-x4": Entrant(
        "router",
        staged(CARN_X4, CAMIXER, [(replace(REPAIRED, exact=True), 1)], TIMES_4),
        routed=True,
    ),
    "adaformer-x4": Entrant(
        "router",
        staged(ADAFORMER_X4, ADAFORMER, [(ADAFORMER_X4.stages[0], 1)], TIMES_4),
        routed=True,
    ),
    "enaf-carn": Entrant(
        "router",
        staged(ENAF_CARN, ENAF_CARN.network, list(zip(ENAF_CARN.stages, (50, 30, 20), strict=True)), TIMES_4),
        routed=True,
    ),
    "tadt-liif": Entrant(
        "router",
        staged(TADT_LIIF, TADT_S, list(zip(TADT_LIIF.stages, (60, 40), strict=True)), ANY),
        routed=True,
    ),
}


def train(asked: argparse.Namespace) -> None:
    """Each entrant by the clock; its file in --out."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    pictures = Pictures.of(load_pictures(asked.pictures, halves=True), device)
    torch.backends.cudnn.benchmark = True
    for name in asked.only or ENTRANTS:
        path = asked.out / f"{name}.safetensors"
        if path.exists():
            continue
        try:
            trained(ENTRANTS[name], pictures, asked.seconds, path)
        except Exception as error:  # the others still train
            print(f"{name}: {type(error).__name__}: {error}", flush=True)


def trained(entrant: Entrant, pictures: Pictures, seconds: float, path: Path) -> None:
    torch.manual_seed(0)
    recipe = entrant.recipe
    model = recipe.network.build()
    run = DeviceTraining(recipe, pictures, model, capture=False)
    warming = run.begin(recipe.stages[0])
    for _ in range(WARM_STEPS):
        run.step(warming)
    began = time.monotonic()
    while (gone := time.monotonic() - began) < seconds:
        if run.has_room():
            run.advance(gone / seconds)
    loss = run.loss
    run.settle()
    kept = recipe.network.build()
    kept.load_state_dict(run.result().state_dict())
    device = torch.cuda.get_device_name() if run.cuda else "CPU"
    about = {"network": path.stem, "licence": recipe.licence, "source": recipe.source, "machine": device}
    about |= {"recipe": "python benchmarks/bakeoff.py train", "steps": json.dumps(run.steps), "seconds": seconds}
    recipe.network.save(kept.half(), path, about)
    print(f"{path.stem}: {run.steps}, loss {loss:.5f}", flush=True)


def score(asked: argparse.Namespace) -> None:
    """PSNR of each entrant, kept beside its weights."""
    from scalewise.data import decode_folder
    from scalewise.evaluate import find_protocol, make_lr, predict
    from scalewise.evaluate import score as measure

    protocol = find_protocol("default")
    photos = [picture.float() / 255 for picture in decode_folder(asked.data)]

    def reduced(hr: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        size = (int(hr.shape[-2] / scale + 1e-9), int(hr.shape[-1] / scale + 1e-9))
        hr = hr[:, : round(size[0] * scale), : round(size[1] * scale)]
        return make_lr(hr, size, scale, protocol), hr

    def psnr(upscaler: Any, scale: float) -> float:
        values = []
        for lr, hr in (reduced(photo, scale) for photo in photos):
            sr = predict(upscaler, lr, (hr.shape[-2], hr.shape[-1]), scale, protocol).sr.float()
            values.append(measure(sr, hr, scale, protocol)["psnr"])
        return round(statistics.mean(values), 3)

    for_each(asked, "psnr", psnr)


def timed(asked: argparse.Namespace) -> None:
    """Seconds per output megapixel of each entrant."""
    from scalewise.evaluate import find_protocol, predict

    protocol = find_protocol("default")
    noise = torch.rand(1, 3, 180, 320, generator=torch.Generator().manual_seed(0))
    lr = torch.nn.functional.avg_pool2d(noise, 3, 1, 1)[0]

    def seconds(upscaler: Any, scale: float) -> float:
        out = (round(180 * scale), round(320 * scale))
        times = []
        for _ in range(asked.repeats + 1):
            began = time.perf_counter()
            predict(upscaler, lr, out, scale, protocol)
            times.append(time.perf_counter() - began)
        return round(statistics.median(times[1:]) / (out[0] * out[1] / 1e6), 4)

    for_each(asked, "seconds", seconds)


def for_each(asked: argparse.Namespace, what: str, measured: Callable[[Any, float], float]) -> None:
    """Adds `what` at every scale and budget to each entrant's JSON file, and to bicubic's."""
    from scalewise import zoo
    from scalewise.budget.budget import Budget
    from scalewise.errors import BudgetInfeasible
    from scalewise.evaluate import bicubic, upscaler_of
    from scalewise.execution.plan import RunOptions

    torch.set_num_threads(asked.threads)
    for name in ["bicubic", *(asked.only or ENTRANTS)]:
        weights, file = asked.out / f"{name}.safetensors", asked.out / f"{name}.json"
        found = json.loads(file.read_text()) if file.exists() else {"budgets": {}}
        if name != "bicubic" and not weights.exists():
            continue
        if any(what in row for row in found["budgets"].values()):
            continue
        if name == "bicubic":
            upscalers: dict[str, Any] = {"100%": bicubic}
        else:
            loaded = zoo.load(weights)
            found |= {"steps": loaded.card["steps"], "training": loaded.card["seconds"]}
            found["parameters"] = sum(p.numel() for p in loaded.model.parameters())  # type: ignore[attr-defined]
            shares = ROUTED if ENTRANTS[name].routed else ROUTED[:1]
            options = RunOptions(dtype="auto")
            upscalers = {f"{one:.0%}": upscaler_of(loaded.model, Budget.fraction(one), options) for one in shares}
        for budget, upscaler in upscalers.items():
            try:
                values = {f"{scale:g}": measured(upscaler, scale) for scale in SCALES}
            except BudgetInfeasible as error:
                print(f"{name}: {error}", flush=True)
                continue
            found["budgets"].setdefault(budget, {})[what] = values
            print(name, budget, what, values, flush=True)
        file.write_text(json.dumps(found))


def table(asked: argparse.Namespace) -> None:
    """Markdown, by PSNR at ×4, and the plot."""
    from scalewise.cli.format import table_text

    rows = []
    for path in sorted(asked.out.glob("*.json")):
        found = json.loads(path.read_text())
        group = ENTRANTS[path.stem].group if path.stem in ENTRANTS else "floor"
        steps = found.get("steps", {})
        rows += [
            (path.stem, group, budget, row, found.get("parameters", 0), sum(steps.values()))
            for budget, row in found["budgets"].items()
            if {"psnr", "seconds"} <= set(row)
        ]
    rows.sort(key=lambda one: -one[3]["psnr"]["4"])
    head = ["entrant", "group", "budget", "params, M", "steps", *(f"×{s:g}" for s in SCALES)]
    head += [f"s/Mpx ×{s:g}" for s in SCALES]
    cells = [
        [name, group, budget, f"{parameters / 1e6:.2f}", f"{steps:,}"]
        + [f"{found['psnr'][f'{s:g}']:.2f}" for s in SCALES]
        + [f"{found['seconds'][f'{s:g}']:.3f}" for s in SCALES]
        for name, group, budget, found, parameters, steps in rows
    ]
    print(table_text(head, cells, "markdown"))
    if asked.plot:
        plot(rows, asked.plot)


def plot(rows: Sequence[tuple[str, str, str, Mapping[str, Any], int, int]], path: Path) -> None:
    import matplotlib.pyplot as plt

    groups = sorted({row[1] for row in rows if row[1] != "floor"})
    figure, axes = plt.subplots(1, 3, figsize=(15, 5.2))
    for axis, scale in zip(axes, ("2", "2.7", "4"), strict=True):
        floor = next(row[3]["psnr"][scale] for row in rows if row[1] == "floor")
        for number, group in enumerate(groups):
            some = [row for row in rows if row[1] == group]
            x, y = [row[3]["seconds"][scale] for row in some], [row[3]["psnr"][scale] - floor for row in some]
            axis.scatter(x, y, label=group, color=f"C{number}", s=24)
            for row, at, gain in zip(some, x, y, strict=True):
                axis.annotate(row[0] + (" 50%" if row[2] == "50%" else ""), (at, gain), fontsize=7, xytext=(3, 3),
                              textcoords="offset points")  # fmt: skip
        axis.set(xscale="log", title=f"×{scale}", xlabel="seconds per output megapixel", ylabel="dB over bicubic")
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=8, loc="lower right")
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=["train", "score", "time", "table"])
    parser.add_argument("--out", type=Path, default=Path("runs/bakeoff"))
    parser.add_argument("--pictures", type=Path, nargs="+")
    parser.add_argument("--data", type=Path, help="a folder of HR pictures that nothing was trained on")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3, help="of `time`, after one to warm up")
    parser.add_argument("--only", nargs="+", choices=list(ENTRANTS), metavar="NAME")
    parser.add_argument("--plot", type=Path)
    asked = parser.parse_args()
    needed = {"train": "pictures", "score": "data"}.get(asked.what)
    if needed and getattr(asked, needed) is None:
        parser.error(f"{asked.what} needs --{needed}")
    asked.out.mkdir(parents=True, exist_ok=True)
    {"train": train, "score": score, "time": timed, "table": table}[asked.what](asked)


if __name__ == "__main__":
    main()
