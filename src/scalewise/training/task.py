"""StageTask: one stage as it is trained: losses, optimizer, learning rate, averaged weights, data. `train_step` is the
step of every training, in the engine and on the device."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.swa_utils import get_ema_multi_avg_fn
from torch.utils.data import DataLoader

from scalewise.data import Numbered
from scalewise.errors import TrainingError
from scalewise.machine.device import Dtype, pick_dtype
from scalewise.storage import atomic_write
from scalewise.training.reparam import load_plain, plain
from scalewise.training.soap import SOAP
from scalewise.training.stage import Batch, Stage, StepContext, check_losses

if TYPE_CHECKING:
    from lightning.fabric import Fabric

REWARM_STEPS = 200  # the learning rate rises over them when a run goes on without its optimizer


@dataclass(frozen=True)
class Prepared:
    """A task as Fabric runs it: `module` is the task, or the task inside its data-parallel wrapper.

    `bf16`: the losses are computed under autocast. Fabric's own mixed precision would also round the coordinates of a
    batch, which are float64, so it stays off."""

    fabric: Fabric
    module: nn.Module
    optimizers: Sequence[Any]
    bf16: bool

    def losses(self, batch: Batch, context: StepContext) -> dict[str, Tensor]:
        device = self.fabric.device.type
        with torch.autocast(device, torch.bfloat16, enabled=self.bf16, cache_enabled=context.generator is not None):
            return self.module(batch, context)


class StageTask(nn.Module):
    """One stage. `forward` gives the losses of a batch; `step` counts the steps done.

    Nothing random is stored: each step seeds its own random numbers. A custom task overrides `forward`, or
    `optimizers` and `train_step`. Modules and buffers that it registers are saved with it; `model` is what the stage
    leaves.
    """

    one_process = False  # True: several processes cannot share this stage

    def __init__(self, model: nn.Module, stage: Stage, *, seed: tuple[int, ...], out: Path) -> None:
        super().__init__()
        self.model, self.stage, self.seed, self.out = model, stage, seed, out
        self.step, self.global_rank = 0, 0
        self.without_optimizer_at: int | None = None  # the step from which the learning rate rises again
        self.last: dict[str, Tensor] = {}  # the losses of the last step, without gradients
        self.raw_optimizers: list[Optimizer] = []
        self.optimizer_states: list[dict[str, Any]] = []
        model.requires_grad_(stage.trains is None)
        for parameter in stage.trains(model) if stage.trains else ():
            parameter.requires_grad_(True)
        self.learnt = {name: p for name, p in model.named_parameters() if p.requires_grad}
        if not self.learnt:
            raise TrainingError(f"stage {stage.name} trains nothing: its `trains` gives no parameter of the model")
        self.average: dict[str, Tensor] = {}

    def forward(self, batch: Batch, context: StepContext) -> dict[str, Tensor]:
        losses = self.stage.loss(self.model, batch, context)
        check_losses(losses)
        return losses

    def prepare(self, fabric: Fabric, dtype: Dtype) -> Prepared:
        """Move to the device, make the optimizers, or take up those of a state, and let Fabric wrap them. Raises
        TrainingError for a state of another optimizer, and for numbers that are not for training."""
        if dtype == "fp16":
            raise TrainingError("fp16 is for results, not for training: take auto, fp32 or bf16")
        if self.one_process and fabric.world_size > 1:
            raise TrainingError(f"stage {self.stage.name} is trained by one process: give it one device")
        fabric.to_device(self)
        self.global_rank = fabric.global_rank
        self.model.train()
        self.average = {name: value.to(fabric.device) for name, value in self.average.items()}
        self.raw_optimizers = self.optimizers()
        for optimizer, state in zip(self.raw_optimizers, self.optimizer_states, strict=False):
            stored, ours = optimizer_of(state), type(optimizer).__name__
            if stored != ours:  # torch would load the one's averages into the other
                raise TrainingError(
                    f"the state is of another optimizer, {stored}, than the stage's, {ours}: begin the stage without it"
                )
            optimizer.load_state_dict(state)
        self.optimizer_states = []
        bf16 = pick_dtype(dtype, fabric.device) == torch.bfloat16 and not self.stage.exact
        if not self.raw_optimizers:
            return Prepared(fabric, self, (), bf16)
        module, *optimizers = fabric.setup(self, *self.raw_optimizers)
        return Prepared(fabric, module, optimizers, bf16)

    def optimizers(self) -> list[Optimizer]:
        if self.stage.optimizer == "adamw":
            return [self.adamw(self.learnt.values())]
        stage = self.stage
        return [SOAP(self.learnt.values(), stage.learning_rate, betas=stage.betas, decay=stage.decay)]

    def adamw(self, parameters: Any) -> AdamW:
        """Fused; each step sets the learning rate, so there is no scheduler to save."""
        stage = self.stage
        return AdamW(list(parameters), stage.learning_rate, betas=stage.betas, weight_decay=stage.decay, fused=True)

    def train_step(self, batch: Batch, prepared: Prepared) -> None:
        """Losses, gradient, optimizer."""
        (optimizer,) = prepared.optimizers
        losses = prepared.losses(batch, self.context())
        self.last = {name: value.detach() for name, value in losses.items()}
        self.descend(optimizer, losses["loss"], batch, prepared)

    def descend(self, optimizer: Any, loss: Tensor, batch: Batch, prepared: Prepared) -> None:
        """One step of one optimizer."""
        optimizer.zero_grad()
        prepared.fabric.backward(loss)
        self.check_gradient(optimizer, batch)
        optimizer.step()

    def context(self) -> StepContext:
        """Where the stage is, and this step's random numbers."""
        numbers = np.random.SeedSequence((*self.seed, self.step, self.global_rank)).generate_state(2)
        torch.manual_seed(int(numbers[0]))
        return StepContext(self.step, self.stage.steps, torch.Generator().manual_seed(int(numbers[1])))

    def rate(self) -> float:
        """The learning rate of the next step."""
        rate = self.stage.rate(self.step)
        if self.without_optimizer_at is not None:
            rate *= min(1.0, (self.step - self.without_optimizer_at + 1) / REWARM_STEPS)
        return rate

    def set_rate(self) -> float:
        """Give the optimizers the learning rate of the next step, and return it."""
        rate = self.rate()
        for optimizer in self.raw_optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
        return rate

    def check_gradient(self, optimizer: Any, batch: Batch) -> None:
        """Clip the gradient; raise TrainingError, with the batch saved, if it or the loss is not finite."""
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        norm = nn.utils.clip_grad_norm_(parameters, self.stage.clip or torch.inf)
        if bool(norm.isfinite() & torch.stack(list(self.last.values())).isfinite().all()):
            return
        losses = ", ".join(f"{name}={float(value):g}" for name, value in self.last.items())
        path = self.out / "bad_batch.pt"
        with atomic_write(path) as temporary:
            saved = {name: value.cpu() for name, value in batch.items()}
            torch.save({"stage": self.stage.name, "step": self.step, "batch": saved, "losses": losses}, temporary)
        raise TrainingError(
            f"step {self.step} of {self.stage.name}: loss or gradient is not finite ({losses}, gradient "
            f"{float(norm):g}); the batch is in {path}: lower the learning rate or look at the data"
        )

    def advance(self) -> None:
        """After the optimizer's step: the averaged weights follow, and the step counts."""
        if self.stage.ema is not None:
            if not self.average:
                self.average = {name: p.detach().clone() for name, p in self.learnt.items()}
            else:
                old, new = list(self.average.values()), [p.detach() for p in self.learnt.values()]
                get_ema_multi_avg_fn(1 - self.stage.forgetting(self.step))(old, new, self.step)
        self.step += 1

    def settle(self) -> nn.Module:
        """Put the averaged weights into the model, as the stage leaves it."""
        with torch.no_grad():
            for name, value in self.average.items():
                self.learnt[name].copy_(value)
        return self.model

    def averaged(self) -> nn.Module:
        """A copy of the model as the stage would leave it now, with plain kernels, in eval mode."""
        model = copy.deepcopy(self.model).requires_grad_(False).eval()
        with torch.no_grad():
            for name, value in self.average.items():
                model.get_parameter(name).copy_(value)
        return plain(model)

    def state(self) -> dict[str, Any]:
        """All that the next step depends on."""
        return {
            "stage": self.stage.name,
            "step": self.step,
            "weights": self.state_dict(),
            "average": self.average,
            "without_optimizer_at": self.without_optimizer_at,
            "optimizers": [{"name": type(one).__name__, **one.state_dict()} for one in self.raw_optimizers],
        }

    def resume(self, state: Mapping[str, Any]) -> None:
        """Take up a state of this stage, or portable weights. Raises TrainingError if it is another network's."""
        try:
            if "portable" in state:
                load_plain(self.model, state["portable"])
            else:
                self.load_state_dict(state["weights"])
        except RuntimeError as error:
            reason = str(error).split("\n\t")[-1].strip()
            raise TrainingError(f"the state does not fit the recipe's network: {reason}") from None
        self.step = state["step"]
        self.average = dict(state.get("average", {}))
        self.optimizer_states = list(state.get("optimizers", ()))
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


def optimizer_of(state: Mapping[str, Any]) -> str:
    """The class of the optimizer that a state is of. Older states have no name: they are of AdamW, or of SOAP, which
    lacks one of AdamW's options."""
    return state.get("name") or ("AdamW" if all("eps" in options for options in state["param_groups"]) else "SOAP")
