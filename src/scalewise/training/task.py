"""Way: one stage as Lightning runs it: its loss, optimizer, learning rate, averaged weights and data."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn
from torch.utils.data import DataLoader

from scalewise.data import Numbered
from scalewise.errors import TrainingError
from scalewise.storage import atomic_write
from scalewise.training.stage import Batch, Stage, StepContext, check_losses

REWARM = 200  # steps over which the learning rate rises when a run goes on without its optimizer


class StageTask(lightning.LightningModule):
    """`step` counts the steps done. Nothing random is kept: each step seeds its own random numbers.

    A way of one's own overrides `losses` (or, with `automatic_optimization = False`, `training_step` and
    `configure_optimizers`, and calls `checked` before each optimizer's step). Modules that it adds to itself are
    saved with it; `self.model` is what the stage leaves.
    """

    def __init__(self, model: nn.Module, stage: Stage, *, seed: tuple[int, ...], out: Path) -> None:
        super().__init__()
        self.model, self.stage, self.seed, self.out = model, stage, seed, out
        self.step = 0
        self.without_optimizer_at: int | None = None  # the step from which the learning rate rises again
        self.last: dict[str, Tensor] = {}  # what the loss gave, without gradients
        self.optimizer_states: list[dict[str, Any]] = []
        model.requires_grad_(stage.trains is None)
        for parameter in stage.trains(model) if stage.trains else ():
            parameter.requires_grad_(True)
        self.learnt = {name: p for name, p in model.named_parameters() if p.requires_grad}
        if not self.learnt:
            raise TrainingError(f"stage {stage.name} trains nothing: its `trains` gives no parameter of the model")
        self.average: dict[str, Tensor] = {}

    def losses(self, batch: Batch, moment: StepContext) -> dict[str, Tensor]:
        return self.stage.loss(self.model, batch, moment)

    def training_step(self, batch: Batch, index: int) -> Tensor:
        self.batch = batch
        losses = self.losses(batch, self.moment())
        check_losses(losses)
        self.last = {name: value.detach() for name, value in losses.items()}
        return losses["loss"]

    def moment(self) -> StepContext:
        """Where we are, and this step's random numbers."""
        numbers = np.random.SeedSequence((*self.seed, self.step, self.global_rank)).generate_state(2)
        torch.manual_seed(int(numbers[0]))
        return StepContext(self.step, self.stage.steps, torch.Generator().manual_seed(int(numbers[1])))

    def rate(self) -> float:
        """The learning rate of the next step."""
        rate = self.stage.rate(self.step)
        if self.without_optimizer_at is not None:
            rate *= min(1.0, (self.step - self.without_optimizer_at + 1) / REWARM)
        return rate

    def configure_optimizers(self) -> Any:
        """AdamW, fused where torch can; `step` sets its learning rate, so there is no scheduler to save."""
        stage = self.stage
        optimizer = torch.optim.AdamW(
            self.learnt.values(), stage.learning_rate, betas=stage.betas, weight_decay=stage.decay, fused=self.fused()
        )
        return self.restored([optimizer])[0]

    def fused(self) -> bool | None:
        return True if self.device.type in ("cuda", "cpu") else None

    def restored(self, optimizers: Sequence[torch.optim.Optimizer]) -> Sequence[torch.optim.Optimizer]:
        """Optimizers as they were in the state that this run goes on from."""
        for optimizer, state in zip(optimizers, self.optimizer_states, strict=False):
            optimizer.load_state_dict(state)
        self.optimizer_states = []
        return optimizers

    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
        self.checked(optimizer)

    def checked(self, optimizer: Any) -> None:
        """Clip the gradient; raise TrainingError, with the batch saved, if it or the loss is not finite."""
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.stage.clip or torch.inf)
        if bool(norm.isfinite() & torch.stack(list(self.last.values())).isfinite().all()):
            return
        words = ", ".join(f"{name}={float(value):g}" for name, value in self.last.items())
        path = self.out / "bad_batch.pt"
        with atomic_write(path) as temporary:
            batch = {name: value.cpu() for name, value in self.batch.items()}
            torch.save({"stage": self.stage.name, "step": self.step, "batch": batch, "losses": words}, temporary)
        raise TrainingError(
            f"step {self.step} of {self.stage.name}: loss or gradient is not finite ({words}, gradient "
            f"{float(norm):g}); the batch is in {path}: lower the learning rate or look at the data"
        )

    def advance(self) -> None:
        """After the optimizer's step: the averaged weights follow, and the step counts."""
        if self.stage.ema is not None:
            if not self.average:
                self.average = {name: p.detach().clone() for name, p in self.learnt.items()}
            else:
                old, new = list(self.average.values()), [p.detach() for p in self.learnt.values()]
                get_ema_multi_avg_fn(self.stage.ema)(old, new, self.step)
        self.step += 1

    def settle(self) -> nn.Module:
        """Put the averaged weights into the model, as the stage leaves it."""
        with torch.no_grad():
            for name, value in self.average.items():
                self.learnt[name].copy_(value)
        return self.model

    def averaged(self) -> nn.Module:
        """A copy of the model as the stage would leave it now, in eval mode."""
        model = copy.deepcopy(self.model).requires_grad_(False).eval()
        with torch.no_grad():
            for name, value in self.average.items():
                model.get_parameter(name).copy_(value)
        return model

    def state(self) -> dict[str, Any]:
        """All that the next step depends on."""
        optimizers = self.optimizers()
        many = optimizers if isinstance(optimizers, list) else [optimizers]
        return {
            "stage": self.stage.name,
            "step": self.step,
            "weights": self.state_dict(),
            "average": self.average,
            "without_optimizer_at": self.without_optimizer_at,
            "optimizers": [optimizer.state_dict() for optimizer in many],  # type: ignore[union-attr]
        }

    def go_on(self, state: Mapping[str, Any]) -> None:
        """Take up a state of this stage. Raises TrainingError if it is another network's."""
        try:
            self.load_state_dict(state["weights"])
        except RuntimeError as error:
            words = str(error).split("\n\t")[-1].strip()
            raise TrainingError(f"the state does not fit the recipe's network: {words}") from None
        self.step = state["step"]
        self.average = {name: value.to(self.learnt[name].device) for name, value in state["average"].items()}
        self.optimizer_states = list(state["optimizers"])
        self.without_optimizer_at = state["without_optimizer_at"] if self.optimizer_states else self.step

    def loader(self, pictures: Sequence[Tensor], workers: int, rank: int, world: int) -> DataLoader:
        """The steps that are left, this process's part of each."""
        numbered = Numbered(
            self.stage.samples,
            pictures,
            seed=self.seed,
            batch=self.stage.batch,
            stop=self.stage.steps,
            first=self.step,
            rank=rank,
            world=world,
        )
        return DataLoader(
            numbered,
            numbered.part,
            num_workers=workers,
            persistent_workers=workers > 0,
            prefetch_factor=4 if workers else None,
            pin_memory=torch.cuda.is_available(),
        )
