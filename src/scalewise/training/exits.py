"""Training of multi-exit any-scale networks: first the exits together, then the router that predicts their gains."""

from __future__ import annotations

from typing import Any

import lightning
import torch
from torch import Tensor, nn

from scalewise.grid import Query
from scalewise.patches import PatchRouted

Batch = dict[str, Tensor]

MEAN_WEIGHT = 10.0  # of the squared mean error of a crop, beside the mean squared error


def query_of(batch: Batch) -> Query:
    return Query(batch["y"].unsqueeze(2), batch["x"].unsqueeze(1), batch["cell"])


def at_query(choice: Tensor, query: Query) -> Tensor:
    """The value of a map (b, 1, h, w) at each point of a rectangle query: (b, 1, hq, wq)."""
    b, _, h, w = choice.shape
    rows = query.y.flatten(1).long().clamp(0, h - 1).view(b, 1, -1, 1).expand(-1, -1, -1, w)
    picked = choice.gather(2, rows)
    columns = query.x.flatten(1).long().clamp(0, w - 1).view(b, 1, 1, -1).expand(-1, -1, picked.shape[2], -1)
    return picked.gather(3, columns)


def random_choice(batch: int, side: int, exits: int, generator: torch.Generator, cell: int = 16) -> Tensor:
    """(b, 1, side, side) int64: half of the samples all at the last exit, the others a random exit per cell."""
    cells = -(-side // cell)
    picked = torch.randint(0, exits + 1, (batch, 1, cells, cells), generator=generator)
    whole = torch.rand(batch, 1, 1, 1, generator=generator) < 0.5
    picked = torch.where(whole, torch.full_like(picked, exits), picked)
    return picked.repeat_interleave(cell, 2).repeat_interleave(cell, 3)[..., :side, :side]


class ExitTraining(lightning.LightningModule):
    """All exits at once: L1 of every exit, each where its patches came that far, with random routes in half of the
    samples, so that the network meets the mixed features that routed inference gives it.

    Adam with warm-up and cosine decay; the weights' exponential moving average is what is kept (`ema`). `squared`
    finishes a network that L1 has trained: L1 settles on medians, which darkens or brightens skewed neighbourhoods by
    a tenth of a level; squared error, with that of each crop's mean, brings the mean colour back.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        steps: int,
        learning_rate: float = 1e-3,
        warmup: int = 200,
        weights: tuple[float, ...] = (0.4, 0.6, 1.0),
        ema_decay: float = 0.999,
        seed: int = 0,
        squared: bool = False,
    ) -> None:
        super().__init__()
        self.network = network
        self.squared = squared
        self.ema = torch.optim.swa_utils.AveragedModel(
            network, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(ema_decay)
        )
        self.steps, self.learning_rate, self.warmup, self.weights, self.seed = (
            steps,
            learning_rate,
            warmup,
            weights,
            seed,
        )

    def training_step(self, batch: Batch, index: int) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.global_step)
        lr = batch["lr"].contiguous(memory_format=torch.channels_last)
        exits: int = self.network.exits  # type: ignore[assignment]
        choice = random_choice(len(lr), lr.shape[-1], exits, generator).to(lr.device)
        query = query_of(batch)
        residuals = self.network.dense(lr, query, choice)  # type: ignore[operator]
        reached = at_query(choice, query)
        target = batch["hr"] - batch["base"]
        loss = lr.new_zeros(())
        for level, (residual, weight) in enumerate(zip(residuals, self.weights, strict=True), 1):
            mask = (reached >= level).float()
            error = (residual.float() - target) * mask
            one = error.abs().sum() / (3 * mask.sum()).clamp_min(1)
            self.log(f"l1/exit{level}", one.detach(), prog_bar=level == exits)
            if self.squared:
                one = error.square().sum() / (3 * mask.sum()).clamp_min(1)
                one = one + MEAN_WEIGHT * error.mean((2, 3)).square().mean()
            loss = loss + weight * one
        return loss

    def optimizer_step(self, *args: Any, **named: Any) -> None:
        # here and not at the end of the batch, where a checkpoint may have been written already
        super().optimizer_step(*args, **named)
        self.ema.update_parameters(self.network)

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(
            self.network.parameters(), self.learning_rate, betas=(0.9, 0.99), weight_decay=1e-5
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self._rate)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _rate(self, step: int) -> float:
        if step < self.warmup:
            return (step + 1) / self.warmup
        progress = min(1.0, (step - self.warmup) / max(1, self.steps - self.warmup))
        return 0.01 + 0.99 * 0.5 * (1 + torch.cos(torch.tensor(progress * torch.pi)).item())


class RouterTraining(lightning.LightningModule):
    """The router alone: the square root of the drop in squared error that each exit brings to each patch.

    A difference of errors is predicted, not the errors: spec adaptive §4.9 (an estimator of PSNR errs by 3 dB where
    exits differ by 0.1). The root tames the heavy tail of squared errors; the network is frozen.
    """

    def __init__(self, model: PatchRouted, *, steps: int, learning_rate: float = 1e-3) -> None:
        super().__init__()
        self.model = model
        self.steps, self.learning_rate = steps, learning_rate

    def training_step(self, batch: Batch, index: int) -> Tensor:
        lr = batch["lr"].contiguous(memory_format=torch.channels_last)
        with torch.no_grad():
            drop = patch_drops(self.model, batch)
        predicted = self.model.router(lr, batch["scale"])  # (b, exits, gy, gx) square roots
        wanted = drop.clamp_min(0).sqrt()
        loss = torch.nn.functional.smooth_l1_loss(predicted, wanted, beta=0.02)
        self.log("loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.model.router.parameters(), self.learning_rate, weight_decay=1e-4)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.learning_rate, total_steps=self.steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def patch_drops(model: PatchRouted, batch: Batch) -> Tensor:
    """(b, exits, gy, gx): by how much each exit lowers the mean squared error of each patch, over the exit before."""
    lr = batch["lr"]
    network, patch = model.network, model.patch
    everything = torch.full_like(lr[:, :1], network.exits, dtype=torch.int64)
    query = query_of(batch)
    target = batch["hr"] - batch["base"]
    errors = [target.square().mean(1)]
    errors += [(residual - target).square().mean(1) for residual in network.dense(lr, query, everything)]
    stacked = torch.stack(errors, 1)  # (b, exits + 1, hq, wq)
    drops = stacked[:, :-1] - stacked[:, 1:]
    gy, gx = (-(-n // patch) for n in lr.shape[-2:])
    rows = (query.y.flatten(1) / patch).long().clamp(0, gy - 1)
    columns = (query.x.flatten(1) / patch).long().clamp(0, gx - 1)
    to_rows = torch.nn.functional.one_hot(rows, gy).to(drops)  # (b, hq, gy)
    to_columns = torch.nn.functional.one_hot(columns, gx).to(drops)
    summed = torch.einsum("behw,bhy,bwx->beyx", drops, to_rows, to_columns)
    count = torch.einsum("bhy,bwx->byx", to_rows, to_columns).clamp_min(1)
    return summed / count.unsqueeze(1)
