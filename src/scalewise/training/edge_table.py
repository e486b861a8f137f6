"""ARM's table: what each width reaches on patches of an edge score (Chen et al., ECCV 2022), filled step by step."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from scalewise.models.patchwise import PatchwiseModel
from scalewise.multiexit.arm import ARM
from scalewise.multiexit.enaf import patch_psnr
from scalewise.routing.edges import edge_score
from scalewise.routing.estimator import EdgeRouter
from scalewise.training.stage import Batch, Stage
from scalewise.training.task import Prepared, StageTask


class EdgeTable(StageTask):
    """ARM's second stage, which learns nothing by gradient: the mean PSNR of each width on patches of one edge score.

    The bins divide 0..`HIGHEST_SCORE` evenly; a bin without patches takes the value of its nearest neighbour. The table
    is written into the router after every step, so that it may stop at any."""

    one_process = True
    HIGHEST_SCORE = 219.65  # the last bin of the published tables ends at it
    total: Tensor
    count: Tensor

    def __init__(self, model: nn.Module, stage: Stage, *, seed: tuple[int, ...], out: Path) -> None:
        super().__init__(model, stage, seed=seed, out=out)
        router = self.router
        self.register_buffer("total", torch.zeros_like(router.expected))
        self.register_buffer("count", torch.zeros(router.expected.shape[1], dtype=torch.float64))

    @property
    def router(self) -> EdgeRouter:
        assert isinstance(self.model, PatchwiseModel) and isinstance(self.model.router, EdgeRouter)
        return self.model.router

    def optimizers(self) -> list[Optimizer]:
        return []

    def train_step(self, batch: Batch, prepared: Prepared) -> None:
        self.fill(batch)

    @torch.no_grad()
    def fill(self, batch: Batch) -> None:
        """Add a batch of patches to the table."""
        network, bins = self.model.get_submodule("network"), len(self.count)
        assert isinstance(network, ARM)
        pictures = [network.take(path, batch["lr"]) for path in range(network.paths)]
        psnr = patch_psnr(pictures, batch["hr"]).double()  # (n, paths)
        place = (edge_score(batch["lr"]) * (bins / self.HIGHEST_SCORE)).long().clamp(max=bins - 1)
        finite = psnr.isfinite().all(1)
        self.total.index_add_(1, place[finite], psnr[finite].T)
        self.count.index_add_(0, place[finite], torch.ones_like(psnr[finite, 0]))
        centres = (torch.arange(bins, dtype=torch.float64, device=place.device) + 0.5) * (self.HIGHEST_SCORE / bins)
        filled = self.count.nonzero().squeeze(1)
        nearest = filled[(centres[:, None] - centres[filled]).abs().argmin(1)]
        self.router.centres.copy_(centres.expand_as(self.router.centres))
        self.router.expected.copy_((self.total / self.count.clamp_min(1))[:, nearest])
        self.last = {"patches": self.count.sum().float()}
