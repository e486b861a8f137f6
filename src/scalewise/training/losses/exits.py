"""Losses of networks with paths: our exits and the router that predicts their gains, then ENAF, ARM, ClassSR and APE.

The losses of the published ones stand with their networks (`multiexit/`); here they are applied to a batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scalewise.geometry.grid import Query
from scalewise.models.early_exit import EarlyExitModel
from scalewise.models.multi_exit import MultiExitModel
from scalewise.models.patchwise import PatchwiseModel
from scalewise.multiexit.anyscale import AnyScaleExits
from scalewise.multiexit.ape import APE, capacity_loss
from scalewise.multiexit.arm import ARM
from scalewise.multiexit.camixer_paths import CAMixerPaths
from scalewise.multiexit.classsr import ClassSR, average_loss, class_loss
from scalewise.multiexit.enaf import ExitNetwork, estimator_loss, exit_loss, patch_psnr
from scalewise.multiexit.paths import bicubic
from scalewise.routing.estimator import ClassRouter, ENAFRouter
from scalewise.training.losses.pixel import query_of as rendered_at
from scalewise.training.stage import Batch, StepContext

MEAN_WEIGHT = 10.0  # weighs the squared mean error of a crop against the mean squared error


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

    def __call__(self, model: nn.Module, batch: Batch, context: StepContext) -> dict[str, Tensor]:
        assert isinstance(model, MultiExitModel)
        lr = batch["lr"].contiguous(memory_format=torch.channels_last)
        choice = random_choice(lr, model.network.exits, context.generator)
        query = query_of(batch)
        residuals = model.network.dense(lr, query, choice)
        reached = at_query(choice, query)
        target = batch["hr"] - batch["base"]
        losses = {"loss": lr.new_zeros(())}
        for level, (residual, weight) in enumerate(zip(residuals, self.weights, strict=True), 1):
            mask = (reached >= level).float()
            error = residual.float() - target
            one = (error.abs() * mask).sum() / (3 * mask.sum()).clamp_min(1)
            losses[f"l1/exit{level}"] = one.detach()
            if self.squared:
                one = (error.square() * mask).sum() / (3 * mask.sum()).clamp_min(1)
                one = one + MEAN_WEIGHT * (error * mask).mean((2, 3)).square().mean()
            losses["loss"] = losses["loss"] + weight * one
        return losses


def trunk_loss(model: nn.Module, batch: Batch, context: StepContext) -> dict[str, Tensor]:
    """Squared error of the last exit alone: the full network learns first, its exits after it."""
    assert isinstance(model, MultiExitModel)
    assert isinstance(model.network, AnyScaleExits)
    lr = batch["lr"].contiguous(memory_format=torch.channels_last)
    residual = model.network.full(lr, query_of(batch)).float()
    return {"loss": (residual - (batch["hr"] - batch["base"])).square().mean()}


def router_loss(model: nn.Module, batch: Batch, context: StepContext) -> dict[str, Tensor]:
    """The router alone: the square root of the drop in squared error that each exit brings to each patch.

    A difference of errors is predicted, not the errors: an estimator of PSNR errs by 3 dB where exits differ
    by 0.1. The root tames the heavy tail of squared errors; the network is frozen.
    """
    assert isinstance(model, MultiExitModel)
    lr = batch["lr"].contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        drop = patch_drops(model, batch)
    predicted = model.router(lr, batch["scale"])  # (b, exits, gy, gx) square roots
    wanted = drop.clamp_min(0).sqrt()
    return {"loss": F.smooth_l1_loss(predicted.float(), wanted, beta=0.02)}


def patch_drops(model: MultiExitModel, batch: Batch) -> Tensor:
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
    to_rows = F.one_hot(rows, gy).to(drops)  # (b, hq, gy)
    to_columns = F.one_hot(columns, gx).to(drops)
    summed = torch.einsum("behw,bhy,bwx->beyx", drops, to_rows, to_columns)
    count = torch.einsum("bhy,bwx->byx", to_rows, to_columns).clamp_min(1)
    return summed / count.unsqueeze(1)


# --- published networks: batches are whole crops at their one scale ---------------------------------------------------


def enaf_parts(model: nn.Module) -> tuple[ExitNetwork, ENAFRouter]:
    assert isinstance(model, PatchwiseModel)
    network, router = model.network, model.router
    assert isinstance(network, ExitNetwork) and isinstance(router, ENAFRouter)
    return network, router


def backbone_l1(model: nn.Module, batch: Batch, context: StepContext) -> dict[str, Tensor]:
    """ENAF's first phase (Eq. 5): L1 of the whole network."""
    network, _ = enaf_parts(model)
    return {"loss": F.l1_loss(network.backbone(batch["lr"]).float(), batch["hr"])}


def early_exits_l1(model: nn.Module, batch: Batch, context: StepContext) -> dict[str, Tensor]:
    """ENAF's second phase (Eq. 6): the sum of the L1 of all exits."""
    network, _ = enaf_parts(model)
    pictures = [picture.float() for picture in network.every_exit(batch["lr"])]
    each = {f"l1/exit{k}": F.l1_loss(one.detach(), batch["hr"]) for k, one in enumerate(pictures[1:], 1)}
    return {"loss": exit_loss(pictures, batch["hr"])} | each


def psnr_estimate(model: nn.Module, batch: Batch, context: StepContext) -> dict[str, Tensor]:
    """ENAF's third phase (Eq. 7): how far the estimator is from each path's PSNR, in dB; the network is frozen."""
    network, router = enaf_parts(model)
    with torch.no_grad():
        pictures = [picture.float() for picture in network.every_exit(batch["lr"])]
    return {"loss": estimator_loss(router.estimator(batch["lr"]).float(), patch_psnr(pictures, batch["hr"]))}


def one_width_l1(model: nn.Module, batch: Batch, context: StepContext) -> dict[str, Tensor]:
    """ARM: L1 of one width of the super-network, drawn with odds of its MACs squared."""
    assert isinstance(model, PatchwiseModel) and isinstance(model.network, ARM)
    lr = batch["lr"]
    costs = [
        model.network.path_macs(path, (lr.shape[-2], lr.shape[-1])).total for path in range(1, model.network.paths)
    ]
    odds = torch.tensor(costs, dtype=torch.float64).square()
    path = 1 + int(torch.multinomial(odds, 1, generator=context.generator))
    return {"loss": F.l1_loss(model.network.take(path, lr).float(), batch["hr"])}


def divided_l1(model: nn.Module, batch: Batch, context: StepContext) -> dict[str, Tensor]:
    """ClassSR's first phase: each network learns its part of the patches, the widest what bicubic restores worst.

    The paper divides once, in thirds, by the dB of a trained network; here each batch is divided, by bicubic's."""
    network, _ = classsr_parts(model)
    lr, hr = batch["lr"], batch["hr"]
    hard_last = patch_psnr([bicubic(lr, network.scale)], hr)[:, 0].argsort(descending=True)
    losses = {}
    for path, of in enumerate(hard_last.tensor_split(network.paths)):
        losses[f"l1/net{path + 1}"] = F.l1_loss(network.take(path, lr[of]).float(), hr[of])
    total = torch.stack(list(losses.values())).sum()
    return {"loss": total} | {name: one.detach() for name, one in losses.items()}


@dataclass(frozen=True)
class ClassLoss:
    """ClassSR's second phase: L1 of the mixed picture, class loss and average loss with the paper's weights."""

    image: float = 1000.0
    clear: float = 0.5
    even: float = 3.0

    def __call__(self, model: nn.Module, batch: Batch, context: StepContext) -> dict[str, Tensor]:
        network, router = classsr_parts(model)
        probability = router.estimator(batch["lr"]).float().softmax(1)
        error = F.l1_loss(network.mixed(batch["lr"], probability).float(), batch["hr"])
        clear, even = class_loss(probability), average_loss(probability)
        loss = self.image * error + self.clear * clear + self.even * even
        return {"loss": loss, "l1": error.detach(), "class": clear.detach(), "average": even.detach()}


def classsr_parts(model: nn.Module) -> tuple[ClassSR | CAMixerPaths, ClassRouter]:
    assert isinstance(model, PatchwiseModel)
    network, router = model.network, model.router
    assert isinstance(network, ClassSR | CAMixerPaths) and isinstance(router, ClassRouter)
    return network, router


def last_exit_l1(model: nn.Module, batch: Batch, context: StepContext) -> dict[str, Tensor]:
    """The backbone that APE starts from: L1 of the last exit."""
    network = ape_of(model)
    shallow = x = network.enter(batch["lr"])
    for path in range(network.paths):
        x = network.stretch(path, x)
    return {"loss": F.l1_loss(network.leave(shallow, x).float(), batch["hr"])}


def capacities(model: nn.Module, batch: Batch, context: StepContext) -> dict[str, Tensor]:
    """APE: L1 of every exit and the squared error of its capacity; the border is scale + 6."""
    network = ape_of(model)
    pictures, found = network(batch["lr"])
    loss = capacity_loss(
        [one.float() for one in pictures], [one.float() for one in found], batch["hr"], shave=network.scale + 6
    )
    return {"loss": loss, "capacity": torch.stack([one.detach().float().mean() for one in found]).mean()}


def ape_of(model: nn.Module) -> APE:
    assert isinstance(model, EarlyExitModel) and isinstance(model.network, APE)
    return model.network
