"""Training of multi-exit any-scale networks: first the exits together, then the router that predicts their gains."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from scalewise.grid import Query
from scalewise.patches import PatchRouted
from scalewise.training.losses import query_of as rendered_at
from scalewise.training.recipe import Batch, Moment

MEAN_WEIGHT = 10.0  # of the squared mean error of a crop, beside the mean squared error


def query_of(batch: Batch) -> Query:
    """Rows times columns in float64, as kernel tables take them at inference."""
    return rendered_at(batch, torch.float64)


def at_query(choice: Tensor, query: Query) -> Tensor:
    """The value of a map (b, 1, h, w) at each point of a rectangle query: (b, 1, hq, wq)."""
    b, _, h, w = choice.shape
    rows = query.y.flatten(1).long().clamp(0, h - 1).view(b, 1, -1, 1).expand(-1, -1, -1, w)
    picked = choice.gather(2, rows)
    columns = query.x.flatten(1).long().clamp(0, w - 1).view(b, 1, 1, -1).expand(-1, -1, picked.shape[2], -1)
    return picked.gather(3, columns)


def random_choice(lr: Tensor, exits: int, generator: torch.Generator | None, cell: int = 16) -> Tensor:
    """(b, 1, h, w) int64 for a batch of square crops: half of the samples all at the last exit, the others a random
    exit per cell. Without a generator the numbers are drawn where `lr` is."""
    batch, side = len(lr), lr.shape[-1]
    cells, device = -(-side // cell), lr.device if generator is None else torch.device("cpu")
    picked = torch.randint(0, exits + 1, (batch, 1, cells, cells), generator=generator, device=device)
    whole = torch.rand(batch, 1, 1, 1, generator=generator, device=device) < 0.5
    picked = torch.where(whole, torch.full_like(picked, exits), picked).to(lr.device)
    index = torch.arange(side, device=lr.device) // cell
    return picked[:, :, index][..., index]


@dataclass(frozen=True)
class ExitLoss:
    """All exits at once: L1 of every exit, each where its patches came that far, with random routes in half of the
    samples, so that the network meets the mixed features that routed inference gives it.

    `squared` finishes a network that L1 has trained: L1 settles on medians, which darkens or brightens skewed
    neighbourhoods by a tenth of a level; squared error, with that of each crop's mean, brings the mean colour back.
    """

    weights: tuple[float, ...] = (0.4, 0.6, 1.0)
    squared: bool = False

    def __call__(self, model: nn.Module, batch: Batch, moment: Moment) -> dict[str, Tensor]:
        assert isinstance(model, PatchRouted)
        lr = batch["lr"].contiguous(memory_format=torch.channels_last)
        choice = random_choice(lr, model.network.exits, moment.generator)
        query = query_of(batch)
        residuals = model.network.dense(lr, query, choice)
        reached = at_query(choice, query)
        target = batch["hr"] - batch["base"]
        losses = {"loss": lr.new_zeros(())}
        of_rows = batch["weight"].unsqueeze(1) if "weight" in batch else 1.0  # (b, 1, p, 1): 360° pictures
        for level, (residual, weight) in enumerate(zip(residuals, self.weights, strict=True), 1):
            mask = (reached >= level).float() * of_rows
            error = residual.float() - target
            one = (error.abs() * mask).sum() / (3 * mask.sum()).clamp_min(1)
            losses[f"l1/exit{level}"] = one.detach()
            if self.squared:
                one = (error.square() * mask).sum() / (3 * mask.sum()).clamp_min(1)
                one = one + MEAN_WEIGHT * (error * mask).mean((2, 3)).square().mean()
            losses["loss"] = losses["loss"] + weight * one
        return losses


def router_loss(model: nn.Module, batch: Batch, moment: Moment) -> dict[str, Tensor]:
    """The router alone: the square root of the drop in squared error that each exit brings to each patch.

    A difference of errors is predicted, not the errors: spec adaptive §4.9 (an estimator of PSNR errs by 3 dB where
    exits differ by 0.1). The root tames the heavy tail of squared errors; the network is frozen.
    """
    assert isinstance(model, PatchRouted)
    lr = batch["lr"].contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        drop = patch_drops(model, batch)
    predicted = model.router(lr, batch["scale"])  # (b, exits, gy, gx) square roots
    wanted = drop.clamp_min(0).sqrt()
    return {"loss": torch.nn.functional.smooth_l1_loss(predicted.float(), wanted, beta=0.02)}


def patch_drops(model: PatchRouted, batch: Batch) -> Tensor:
    """(b, exits, gy, gx): by how much each exit lowers the mean squared error of each patch, over the exit before."""
    lr = batch["lr"]
    network, patch = model.network, model.patch
    everything = torch.full_like(lr[:, :1], network.exits, dtype=torch.int64)
    query = query_of(batch)
    target = batch["hr"] - batch["base"]
    errors = [target.square().mean(1)]
    errors += [(residual.float() - target).square().mean(1) for residual in network.dense(lr, query, everything)]
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
