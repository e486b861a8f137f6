"""`train`: a recipe's stages one after the other, from the last state, with logs, checkpoints and orderly stops."""

from __future__ import annotations

import logging
import math
import platform
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from scalewise.data.crops import large_enough
from scalewise.errors import InvalidRequest, TrainingError
from scalewise.machine.device import Dtype
from scalewise.storage import locked
from scalewise.training import state as states
from scalewise.training.logs import LOG_NAME, Log
from scalewise.training.recipe import Recipe
from scalewise.training.reparam import plain
from scalewise.training.start import Origin, Start
from scalewise.training.task import StageTask

if TYPE_CHECKING:
    from lightning.fabric import Fabric

# Looks at the averaged model at a step: numbers for the log, pictures into OUT if it likes.
Validation = Callable[[nn.Module, int], Mapping[str, float]]
Reason = Literal["done", "time", "interrupted"]
LOCK_NAME = "lock"  # in the folder of a run: held while it is written to


@dataclass(frozen=True)
class TrainOptions:
    """How to run what the recipe says. Steps between saved states, validations and lines of the log; `seconds` of wall
    time for this call; `state`: the folder of the portable state. `start`: weights to begin with in place of new ones;
    a state that is resumed comes before them."""

    resume: bool = False
    start: Start | None = None
    seconds: float = math.inf
    devices: int = 1
    nodes: int = 1
    dtype: Dtype = "auto"
    workers: int = 1
    save_every: int = 250
    validate_every: int = 1000
    log_every: int = 50
    state: Path | None = None
    quiet: bool = False

    @property
    def processes(self) -> int:
        return self.devices * self.nodes


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

    def requested(self) -> bool:
        if self.reason == "done" and time.monotonic() >= self.deadline:
            self.reason = "time"
        return self.reason != "done"


@dataclass
class TrainingLoop:
    """The steps of a stage, and what follows each: averaged weights, log, validation, state, and whether to stop."""

    fabric: Fabric
    options: TrainOptions
    log: Log
    stop: Stop
    validate: Validation | None
    save: Callable[[StageTask], None]
    keep_portable: Callable[[StageTask, nn.Module], None]
    sums: dict[str, Tensor] = field(default_factory=dict)
    counted: int = 0

    def run(self, task: StageTask, pictures: Sequence[Tensor]) -> None:
        """A stage up to its last step, or to a stop."""
        fabric = self.fabric
        prepared = task.prepare(fabric, self.options.dtype)
        loader = task.loader(pictures, self.options.workers, fabric.global_rank, fabric.world_size)
        batches: Any = fabric.setup_dataloaders(loader, use_distributed_sampler=False)
        for batch in batches:
            rate = task.set_rate()
            task.train_step(batch, prepared)
            task.advance()
            if self.after_step(task, rate):
                break
        task.to("cpu")

    def after_step(self, task: StageTask, rate: float) -> bool:
        """Whether to stop, which the first process decides for all."""
        options, stage, step = self.options, task.stage, task.step
        for name, value in task.last.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value.clone()
        self.counted += 1
        last = step == stage.steps
        stopping = self.fabric.broadcast(self.stop.requested())
        if self.fabric.is_global_zero:
            self.log.tick(stage.name, step, stage.steps)
            if step % options.log_every == 0 or last or stopping:
                means = {name: float(value) / self.counted for name, value in self.sums.items()}
                self.log.write(stage.name, step, means | {"rate": rate})
                self.sums, self.counted = {}, 0
            if self.validate is not None and (step % options.validate_every == 0 or last):
                averaged = task.averaged()
                seen = self.validate(averaged, step)
                self.log.write(stage.name, step, {"val/" + key: value for key, value in seen.items()})
                self.keep_portable(task, averaged)
            if step % options.save_every == 0 or last or stopping:
                self.save(task)
        return stopping


def train(
    recipe: Recipe,
    pictures: Sequence[Tensor],
    out: Path,
    options: TrainOptions | None = None,
    *,
    validate: Validation | None = None,
    card: Mapping[str, Any] | None = None,
) -> Trained:
    """Train a recipe on pictures (3, h, w) uint8, or go on where the state in `out` stopped.

    Writes to `out`: `last.ckpt`, `log.jsonl`, `tensorboard/` if that is installed, and `RECIPE.safetensors`, the
    weight file with its card; `card` adds to that what only the caller knows, as training_data. Raises DataError,
    InvalidRequest and TrainingError before the first step if recipe, pictures, state and folder do not fit, and
    UnwritableOutput if another run is writing there.
    """
    options = options or TrainOptions()
    started = time.monotonic()
    make_folder(out)
    with _held(out):
        return _train(recipe, pictures, out, options, started, validate, card)


def _train(
    recipe: Recipe,
    pictures: Sequence[Tensor],
    out: Path,
    options: TrainOptions,
    started: float,
    validate: Validation | None,
    card: Mapping[str, Any] | None,
) -> Trained:
    """As `train`, whose folder is held."""
    fabric = _fabric(options)
    state = _state(recipe, out, options, fabric.is_global_zero)
    large_enough(pictures, max((stage.samples for stage in recipe.stages), key=lambda samples: samples.needs))
    for stage in recipe.stages:
        if stage.batch % options.processes:
            raise InvalidRequest(
                f"stage {stage.name} has batches of {stage.batch}, which {options.processes} processes cannot share: "
                "choose a number of devices that divides it"
            )
    torch.manual_seed(recipe.seed)
    model = recipe.network.build().to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    states.check_space(out, 8 * sum(4 * p.numel() for p in model.parameters()))
    fabric.launch()
    first = [stage.name for stage in recipe.stages].index(state["stage"]) if state else 0
    before = state["seconds"] if state else 0.0
    start = options.start if state is None else None
    origin = Origin(**state["start"]) if state and state.get("start") else start and start.origin
    stop = Stop(started + options.seconds)
    if state and "portable" in state and options.state is not None and fabric.is_global_zero:
        earlier = states.portable_log(options.state, recipe.name)
        if earlier.exists():  # it goes on as the weights do
            shutil.copyfile(earlier, out / LOG_NAME)
    log = Log(out, enabled=fabric.is_global_zero, quiet=options.quiet)

    def run_so_far() -> dict[str, Any]:
        about = {"recipe": recipe.name, "seed": recipe.seed, "begins": recipe.stages[0].name}
        return about | {"start": origin and vars(origin), "seconds": before + time.monotonic() - started}

    def save(task: StageTask) -> None:
        states.write_state(out, task.state() | run_so_far())

    def keep_portable(task: StageTask, model: nn.Module) -> None:
        if options.state is None:
            return
        about = run_so_far() | {"stage": task.stage.name, "step": task.step}
        states.write_portable(options.state, recipe.name, model, about)
        shutil.copyfile(out / LOG_NAME, states.portable_log(options.state, recipe.name))

    loop = TrainingLoop(fabric, options, log, stop, validate, save, keep_portable)
    task = None
    with log, _signals(stop):
        for number, stage in enumerate(recipe.stages):
            if start is not None and number == 0:
                start.begin(model, stage)
            elif stage.prepare is not None:
                stage.prepare(model)
            if number < first:
                continue
            task = (stage.task or StageTask)(model, stage, seed=(recipe.seed, number), out=out)
            if state is not None and number == first:
                task.resume(state)
            if task.step < stage.steps:
                loop.run(task, pictures)
            task.settle()
            if stop.reason != "done" or task.step < stage.steps:
                break
    assert task is not None
    model = plain(model.cpu()).requires_grad_(True).eval()
    weights = out / f"{recipe.name}.safetensors"
    if fabric.is_global_zero:
        seconds = before + time.monotonic() - started
        about = _card(recipe, task, seconds, options, log.validation, origin) | dict(card or {})
        recipe.network.save(model, weights, about if origin is None else origin.added_to(about))
        keep_portable(task, model)
    return Trained(model, weights, task.stage.name, task.step, task.stage.steps, stop.reason, fabric.is_global_zero)


def _fabric(options: TrainOptions) -> Fabric:
    """The processes that share each batch, on GPUs where there are any. Imported here, so that listing recipes does not
    load Lightning."""
    from lightning.fabric import Fabric

    logging.getLogger("lightning.fabric").setLevel(logging.ERROR)  # it greets on every start
    return Fabric(
        accelerator="cuda" if torch.cuda.is_available() else "cpu",
        devices=options.devices,
        num_nodes=options.nodes,
        strategy="ddp" if options.processes > 1 else "auto",
    )


def is_first_process() -> bool:
    """False in the others of several processes, also before they have found each other."""
    from lightning.fabric.utilities import rank_zero_only

    return getattr(rank_zero_only, "rank", 0) == 0


@contextmanager
def _held(out: Path) -> Iterator[None]:
    """Hold the folder of a run against other runs. The first process of several holds it for all: the others are
    started while it does. Raises UnwritableOutput."""
    if not is_first_process():
        yield
        return
    with locked(out / LOCK_NAME, f"another training is writing to {str(out)!r}: wait for it, or choose another --out"):
        try:
            yield
        finally:
            (out / LOCK_NAME).unlink(missing_ok=True)


def make_folder(out: Path) -> None:
    """Raises TrainingError."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TrainingError(f"cannot make {str(out)!r}: {error.strerror}; choose another folder") from error


def _state(recipe: Recipe, out: Path, options: TrainOptions, main: bool) -> dict[str, Any] | None:
    """The state to go on from: the last of this folder, else the portable one. Raises TrainingError."""
    state = states.read_state(out)
    if state is not None and not options.resume and main:
        raise InvalidRequest(f"{out} holds a run of {state['recipe']}: resume it, or choose another folder")
    if state is None and options.resume and options.state is not None:
        found = states.read_portable(options.state, recipe.name)
        if found is not None:
            weights, about = found
            state = {"portable": weights, **about}
    if state is None:
        return None
    for key, ours in (("recipe", recipe.name), ("seed", recipe.seed)):
        if state[key] != ours:
            raise TrainingError(f"the state in {out} has {key} {state[key]!r}, not {ours!r}: choose another folder")
    begins = recipe.stages[0].name
    if state.get("begins", begins) != begins:
        raise TrainingError(
            f"the state in {out} is of a training that began at stage {state['begins']}, not {begins}: begin there "
            "too, or choose another folder"
        )
    stage = next((stage for stage in recipe.stages if stage.name == state["stage"]), None)
    if stage is None or state["step"] > stage.steps:
        raise TrainingError(
            f"the state is at step {state['step']} of stage {state['stage']!r}, which this recipe does not reach: "
            "give the steps that it was started with, or more"
        )
    return state


def _card(
    recipe: Recipe,
    task: StageTask,
    seconds: float,
    options: TrainOptions,
    seen: Mapping[str, float],
    origin: Origin | None,
) -> dict[str, Any]:
    """What the weight file says of itself; strings, numbers and JSON. What a recipe promises is of new weights."""
    finished = task.stage is recipe.stages[-1] and task.step == task.stage.steps
    begins = "" if origin is None else f" --start {origin.name} --stage {recipe.stages[0].name}"
    at = "" if finished else f", stopped at step {task.step} of {task.stage.name}"
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    card: dict[str, Any] = {
        "network": recipe.name,
        "licence": recipe.licence,
        "recipe": f"scalewise train {recipe.name}{begins}",
        "source": recipe.source,
        "steps": ", ".join(f"{stage.name} {stage.steps}" for stage in recipe.stages) + at,
        "hours": round(seconds / 3600, 4),
        "machine": f"{options.processes} × {device}, torch {torch.__version__}",
    }
    if seen:
        card["validation"] = seen
    if recipe.expects and origin is None:
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
