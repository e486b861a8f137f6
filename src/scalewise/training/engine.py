"""`train`: a recipe's stages one after the other, from the last state, with logs, checkpoints and orderly stops."""

from __future__ import annotations

import math
import platform
import signal
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import lightning
import torch
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor, nn

from scalewise.data.crops import large_enough
from scalewise.errors import InvalidRequest, TrainingError
from scalewise.machine.device import Dtype, pick_dtype
from scalewise.training import state as states
from scalewise.training.logs import Log
from scalewise.training.recipe import Recipe
from scalewise.training.task import StageTask

# Looks at the averaged model at a step: numbers for the log, pictures into OUT if it likes.
Validation = Callable[[nn.Module, int], Mapping[str, float]]
Reason = Literal["done", "time", "interrupted"]


@dataclass(frozen=True)
class TrainOptions:
    """How to run, beside what the recipe says. Steps between saved states, watches and lines of the log; `seconds` of
    wall time for this call; `state`: the folder of the portable state; `parts`: leave the last state in parts too."""

    resume: bool = False
    seconds: float = math.inf
    devices: int = 1
    nodes: int = 1
    dtype: Dtype = "auto"
    workers: int = 1
    save_every: int = 250
    watch_every: int = 1000
    log_every: int = 50
    state: Path | None = None
    parts: bool = False
    quiet: bool = False


@dataclass(frozen=True)
class Trained:
    """What a call left: the model (averaged weights, eval mode), its weight file, where it stopped and why."""

    model: nn.Module
    weights: Path
    stage: str
    step: int
    steps: int
    reason: Reason
    main: bool = True  # False in the other processes of several


@dataclass
class Stop:
    """Why to stop after this step; set by a signal or by the clock."""

    deadline: float
    reason: Reason = "done"

    def asked(self) -> bool:
        if self.reason == "done" and time.monotonic() >= self.deadline:
            self.reason = "time"
        return self.reason != "done"


@dataclass
class Steps(lightning.Callback):
    """What happens around a step: learning rate before it; average, log, watch, state and stop after it."""

    plan: TrainOptions
    book: Log
    stop: Stop
    watch: Validation | None
    save: Callable[[StageTask], None]
    sums: dict[str, Tensor] = field(default_factory=dict)
    counted: int = 0

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        assert isinstance(pl_module, StageTask)
        pl_module.average = {name: value.to(pl_module.device) for name, value in pl_module.average.items()}

    def on_train_batch_start(self, trainer: lightning.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        for optimizer in trainer.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = pl_module.rate()

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        way: StageTask = pl_module
        rate = way.rate()
        way.advance()
        for name, value in way.last.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value.clone()
        self.counted += 1
        last = way.step == way.stage.steps
        stopping = trainer.strategy.broadcast(self.stop.asked()) if trainer.world_size > 1 else self.stop.asked()
        if trainer.is_global_zero:
            self.book.tick(way.stage.name, way.step, way.stage.steps)
            if way.step % self.plan.log_every == 0 or last or stopping:
                means = {name: float(value) / self.counted for name, value in self.sums.items()}
                self.book.write(way.stage.name, way.step, means | {"rate": rate})
                self.sums, self.counted = {}, 0
            if self.watch is not None and (way.step % self.plan.watch_every == 0 or last):
                seen = self.watch(way.averaged(), way.step)
                self.book.write(way.stage.name, way.step, {"val/" + k: v for k, v in seen.items()})
            if way.step % self.plan.save_every == 0 or last or stopping:
                self.save(way)
        if stopping:
            trainer.should_stop = True


def train(
    recipe: Recipe,
    pictures: Sequence[Tensor],
    out: Path,
    plan: TrainOptions | None = None,
    *,
    watch: Validation | None = None,
    card: Mapping[str, Any] | None = None,
) -> Trained:
    """Train a recipe on pictures (3, h, w) uint8, or go on where the state in `out` stopped.

    Writes to `out`: `last.ckpt`, `log.jsonl`, `tensorboard/` if that is installed, and `RECIPE.safetensors`, the
    weight file with its card; `card` adds to that what only the caller knows, as training_data. Raises DataError,
    InvalidRequest and TrainingError before the first step if recipe, pictures, state and folder do not fit.
    """
    plan = plan or TrainOptions()
    started = time.monotonic()
    state = _state(recipe, out, plan)
    large_enough(pictures, max((stage.samples for stage in recipe.stages), key=lambda samples: samples.needs))
    for stage in recipe.stages:
        if stage.batch % (plan.devices * plan.nodes):
            raise InvalidRequest(
                f"stage {stage.name} has batches of {stage.batch}, which {plan.devices * plan.nodes} processes cannot "
                "share: choose a number of devices that divides it"
            )
    torch.manual_seed(recipe.seed)
    model = recipe.network.build().to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    states.check_space(out, 8 * sum(4 * p.numel() for p in model.parameters()))
    names = [stage.name for stage in recipe.stages]
    first = names.index(state["stage"]) if state else 0
    before = state["seconds"] if state else 0.0
    stop = Stop(started + plan.seconds)
    log = Log(out, enabled=rank_zero_only.rank == 0, quiet=plan.quiet)

    def save(way: StageTask) -> None:
        states.write_state(
            out,
            way.state() | {"recipe": recipe.name, "seed": recipe.seed, "seconds": before + time.monotonic() - started},
        )

    way = None
    with log, _signals(stop):
        for number, stage in enumerate(recipe.stages):
            if stage.prepare is not None:
                stage.prepare(model)
            if number < first:
                continue
            way = (stage.way or StageTask)(model, stage, seed=(recipe.seed, number), out=out)
            if state is not None and number == first:
                way.go_on(state)
            if way.step < stage.steps:
                _fit(way, pictures, plan, Steps(plan, log, stop, watch, save))
            way.settle()
            if stop.reason != "done" or way.step < stage.steps:
                break
    assert way is not None
    model = model.cpu().requires_grad_(True).eval()
    weights = out / f"{recipe.name}.safetensors"
    if rank_zero_only.rank == 0:
        seconds = before + time.monotonic() - started
        about = _card(recipe, way, seconds, plan, log.validation) | dict(card or {})
        recipe.network.save(model, weights, about)
        if plan.state is not None:
            about = {
                "recipe": recipe.name,
                "stage": way.stage.name,
                "step": way.step,
                "seconds": seconds,
                "seed": recipe.seed,
            }
            states.write_portable(plan.state, recipe.name, model, about)
        if plan.parts:
            states.split(out / states.LAST, out / "parts")
    return Trained(model, weights, way.stage.name, way.step, way.stage.steps, stop.reason, rank_zero_only.rank == 0)


def _fit(way: StageTask, pictures: Sequence[Tensor], plan: TrainOptions, steps: Steps) -> None:
    """One stage up to its last step, or to a stop."""
    cuda = torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    fast = pick_dtype(plan.dtype, device) == torch.bfloat16 and not way.stage.exact
    several = plan.devices * plan.nodes > 1
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")  # advice for scripts that use the Trainer by hand
        trainer = lightning.Trainer(
            accelerator="gpu" if cuda else "cpu",
            devices=plan.devices,
            num_nodes=plan.nodes,
            strategy="ddp" if several else "auto",
            precision="bf16-mixed" if fast else "32-true",
            max_epochs=1,  # an epoch is what is left of the stage
            callbacks=[steps],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            default_root_dir=way.out,
        )
        way.model.train()
        loader = way.loader(pictures, plan.workers, trainer.global_rank, trainer.world_size)
        with suppress(SIGTERMException):  # Lightning's own end of a run that our handler has ended
            trainer.fit(way, loader)
    way.to("cpu")


def _state(recipe: Recipe, out: Path, plan: TrainOptions) -> dict[str, Any] | None:
    """The state to go on from: the last of this folder, else the portable one. Raises TrainingError."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TrainingError(f"cannot make {str(out)!r}: {error.strerror}; choose another --out") from error
    state = states.read_state(out)
    if state is not None and not plan.resume and rank_zero_only.rank == 0:
        raise InvalidRequest(f"{out} holds a run of {state['recipe']}: go on by --resume, or choose another --out")
    if state is None and plan.resume and plan.state is not None:
        found = states.read_portable(plan.state, recipe.name)
        if found is not None:
            weights, about = found
            weights = {f"model.{name}": value for name, value in weights.items()}
            state = {"weights": weights, "average": {}, "optimizers": [], "without_optimizer_at": None} | about
    if state is None:
        return None
    for key, ours in (("recipe", recipe.name), ("seed", recipe.seed)):
        if state[key] != ours:
            raise TrainingError(f"the state in {out} has {key} {state[key]!r}, not {ours!r}: choose another --out")
    stage = next((stage for stage in recipe.stages if stage.name == state["stage"]), None)
    if stage is None or state["step"] > stage.steps:
        raise TrainingError(
            f"the state is at step {state['step']} of stage {state['stage']!r}, which this recipe does not reach: "
            "give the --steps that it was started with, or more"
        )
    return state


def _card(
    recipe: Recipe, way: StageTask, seconds: float, plan: TrainOptions, seen: Mapping[str, float]
) -> dict[str, Any]:
    """What the weight file says of itself; strings, numbers and JSON."""
    finished = way.stage is recipe.stages[-1] and way.step == way.stage.steps
    at = "" if finished else f", stopped at step {way.step} of {way.stage.name}"
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    card: dict[str, Any] = {
        "network": recipe.name,
        "licence": recipe.licence,
        "recipe": f"scalewise train {recipe.name}",
        "source": recipe.source,
        "steps": ", ".join(f"{stage.name} {stage.steps}" for stage in recipe.stages) + at,
        "hours": round(seconds / 3600, 4),
        "machine": f"{plan.devices * plan.nodes} × {device}, torch {torch.__version__}",
    }
    if seen:
        card["validation"] = seen
    if recipe.expects:
        card["expects"] = dict(recipe.expects)
    return card | dict(recipe.card)


@contextmanager
def _signals(stop: Stop) -> Iterator[None]:
    """Ctrl-C and SIGTERM end the run after this step, with its state saved; a second Ctrl-C ends it at once."""

    def ask(number: int, frame: Any) -> None:
        if stop.reason == "interrupted" and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.reason = "interrupted"

    try:
        before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread
        before = {}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
