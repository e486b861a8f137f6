"""How `fast` was made: `python -m scalewise.recipes.fast --data DIR --out DIR`.

Three stages. Exits: 7 500 steps of 8 crops (48×48 LR, scales U(1, 4), a quarter of them unequal), L1, AdamW 1e-3 with
cosine decay, EMA 0.999. Finish: 700 steps of the same with squared error, 1e-4, EMA 0.99. Router: the network frozen,
1 000 steps of 4 crops of 96×96. On 2 quiet cores of AVX2 that takes about 1.2 h; killed at any time, the same command
goes on from the last checkpoint. `docs/models/fast.md` has the dB, and how the run behind the shipped weights differed.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint, RichProgressBar
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor
from torch.utils.data import DataLoader

from scalewise import zoo
from scalewise.data import AnyScaleCrops, decode_folder
from scalewise.multiexit.anyscale import AnyScaleExits
from scalewise.patches import PatchRouted
from scalewise.training.exits import ExitTraining, RouterTraining

SAVE_EVERY = 250  # steps


@dataclass(frozen=True)
class Recipe:
    """A way to make a model: the network, the data, the stages, and what it should reach."""

    steps: int = 7_500
    finish_steps: int = 700
    router_steps: int = 1_000
    batch: int = 8
    router_batch: int = 4
    lr_side: int = 48
    router_side: int = 96
    points: int = 96
    learning_rate: float = 1e-3
    finish_rate: float = 1e-4
    seed: int = 1
    source: str = "ours; sampling after LIIF (arXiv:2012.09161, section 4), routing after ENAF (WACV 2025)"
    # PSNR in dB, Y, shave = scale, 8 bit, budget 100%: dataset and scale → at least
    expects: Mapping[str, float] = field(
        default_factory=lambda: {"Set5 x2": 35.48, "Set5 x3": 31.91, "Set5 x4": 30.03, "B100 x4": 26.86}
    )


FAST = Recipe()


def train(recipe: Recipe, data: Path, out: Path, *, workers: int = 1, precision: Any = "32-true") -> PatchRouted:
    """All stages, each from its last checkpoint if there is one; the finished model."""
    torch.manual_seed(recipe.seed)
    pictures = decode_folder(data)
    model = zoo.fast().to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    network = cast(AnyScaleExits, model.network)
    exits = ExitTraining(network, steps=recipe.steps, learning_rate=recipe.learning_rate)
    fit(exits, out / "exits", recipe, pictures, recipe.lr_side, recipe.steps, workers=workers, precision=precision)

    network.load_state_dict(exits.ema.module.state_dict())
    finish = ExitTraining(
        network, steps=recipe.finish_steps, learning_rate=recipe.finish_rate, warmup=50, ema_decay=0.99, squared=True
    )
    fresh = replace(recipe, seed=recipe.seed + 1)
    fit(
        finish,
        out / "finish",
        fresh,
        pictures,
        recipe.lr_side,
        recipe.finish_steps,
        workers=workers,
        precision=precision,
    )

    network.load_state_dict(finish.ema.module.state_dict())
    network.requires_grad_(False)
    router = RouterTraining(model, steps=recipe.router_steps)
    looks = replace(recipe, batch=recipe.router_batch)
    fit(router, out / "router", looks, pictures, recipe.router_side, recipe.router_steps, workers=workers)
    return model.eval()


def fit(
    module: lightning.LightningModule,
    folder: Path,
    recipe: Recipe,
    pictures: list[Tensor],
    side: int,
    steps: int,
    *,
    workers: int = 1,
    precision: Any = "32-true",
    save_every: int = SAVE_EVERY,
) -> None:
    """Train up to step `steps`, from the checkpoint in `folder` if there is one. Samples are numbered, so a resumed run
    goes on with the sample after the last one."""
    last = folder / "last.ckpt"
    done = int(torch.load(last, map_location="cpu", weights_only=True)["global_step"]) if last.exists() else 0
    crops = AnyScaleCrops(
        pictures,
        length=steps * recipe.batch,
        lr_side=side,
        points=recipe.points * side // 48,
        seed=recipe.seed,
        first=done * recipe.batch,
    )
    trainer = lightning.Trainer(
        max_steps=steps,
        max_epochs=-1,
        precision=precision,
        gradient_clip_val=0.5,
        logger=CSVLogger(folder, name="log"),
        callbacks=[
            ModelCheckpoint(folder, every_n_train_steps=save_every, save_top_k=1, save_last=True),
            RichProgressBar(),
        ],
    )
    if done < steps:
        loader = DataLoader(crops, recipe.batch, num_workers=workers, persistent_workers=workers > 0)
        trainer.fit(module, loader, ckpt_path=last if done else None)
    else:
        module.load_state_dict(torch.load(last, map_location="cpu", weights_only=True)["state_dict"])


def export(model: PatchRouted, path: Path, about: Mapping[str, Any]) -> None:
    """Write the weight file that `zoo` ships: safetensors that says of itself what it is."""
    zoo.save_patch_routed(model, path, about)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True, help="folder of training photos")
    parser.add_argument("--out", type=Path, required=True, help="checkpoints, logs and the finished file")
    parser.add_argument("--steps", type=int, default=FAST.steps)
    parser.add_argument("--router-steps", type=int, default=FAST.router_steps)
    parser.add_argument("--precision", default="32-true", help="bf16-mixed where the machine is good at it")
    parser.add_argument("--workers", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(os.cpu_count() or 1)
    recipe = Recipe(steps=given.steps, router_steps=given.router_steps)
    model = train(recipe, given.data, given.out, workers=given.workers, precision=given.precision)
    export(model, given.out / "fast.safetensors", {"network": "fast", "licence": "Apache-2.0", "recipe": "fast"})


if __name__ == "__main__":
    main()
