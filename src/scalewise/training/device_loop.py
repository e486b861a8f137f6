"""Training on one device without waiting for the host: pictures, samples and steps, several recipes side by side.

The engine (`engine.py`) trains any recipe, resumes exactly, and spends a few milliseconds of Python per step, in which
a large GPU with a small network is idle. Here a stage's whole step (sample, then `StageTask.train_step`, average) is
captured once as a CUDA graph and replayed, each recipe on a stream of its own, and time takes the place of steps: a
stage gets the share of the seconds that its steps have of the recipe's, and its schedule runs to its end in them. For
recipes of `AnyScaleCrops` in rows whose losses stay on the device. On a CPU the same steps run one after the other.

    python -m scalewise.recipes.resident fast quality --pictures DIR --seconds 400 --out DIR
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from scalewise.data.crops import AnyScaleCrops
from scalewise.data.resident import DeviceCrops, Pictures
from scalewise.errors import InvalidRequest
from scalewise.models.multi_exit import MultiExitModel
from scalewise.multiexit.anyscale import AnyScaleExits, masked_block
from scalewise.training.recipe import Recipe
from scalewise.training.reparam import plain
from scalewise.training.soap import SOAP
from scalewise.training.stage import Batch, Stage, StepContext
from scalewise.training.start import Start
from scalewise.training.task import Prepared, StageTask

WARM_STEPS = 3  # before a capture: libraries choose their algorithms, the optimizer makes its state
QUEUED_STEPS = 4  # most steps that the host has given to the device and that have not run
REPORT_SECONDS = 10.0
torch_lists: Any = torch  # its operations on lists of tensors have no public name
COMPILED = torch.compile(masked_block, dynamic=False)  # one kernel for the operations between two convolutions


class DeviceTask(StageTask):
    """A stage whose step never waits for the host: learning rate and speed of the average are tensors of the device,
    and gradients are clipped but not looked at."""

    def place(self, device: torch.device) -> None:
        self.rate_now = torch.tensor(0.0, device=device)
        self.forgetting = torch.tensor(1.0, device=device)  # 1 - decay of the average
        self.mean_loss = torch.zeros((), device=device)
        self.averages = [parameter.detach().clone() for parameter in self.learnt.values()]
        self.parameters_learnt = list(self.learnt.values())
        self.average = dict(zip(self.learnt, self.averages, strict=True)) if self.stage.ema is not None else {}

    def optimizers(self) -> list[Optimizer]:
        stage, cuda = self.stage, self.rate_now.is_cuda
        if stage.optimizer == "soap":
            return [SOAP(self.parameters_learnt, self.rate_now, betas=stage.betas, decay=stage.decay)]
        return [
            torch.optim.AdamW(
                self.parameters_learnt,
                self.rate_now,
                betas=stage.betas,
                weight_decay=stage.decay,
                fused=True,
                capturable=cuda,
            )
        ]

    def context(self) -> StepContext:
        return StepContext(0, self.stage.steps, None)

    def descend(self, optimizer: Any, loss: Tensor, batch: Batch, prepared: Prepared) -> None:
        optimizer.zero_grad(set_to_none=False)  # a captured graph writes to the same gradients each time
        prepared.fabric.backward(loss)
        if self.stage.clip is not None:
            nn.utils.clip_grad_norm_(self.parameters_learnt, self.stage.clip, foreach=True)
        optimizer.step()

    def advance(self) -> None:
        with torch.no_grad():
            change = torch_lists._foreach_sub(self.parameters_learnt, self.averages)
            torch_lists._foreach_mul_(change, self.forgetting)
            torch_lists._foreach_add_(self.averages, change)
            self.mean_loss.lerp_(self.last["loss"].float(), 0.01)


@dataclass
class DeviceTraining:
    """One recipe in training. `start`: weights to begin with, in place of the model's new ones."""

    recipe: Recipe
    pictures: Pictures
    model: nn.Module
    start: Start | None = None
    capture: bool = True  # as a CUDA graph; not for networks or losses that wait for the device
    steps: dict[str, int] = field(default_factory=dict)
    queued: list[Any] = field(default_factory=list)
    task: DeviceTask | None = None

    def __post_init__(self) -> None:
        from lightning.fabric import Fabric

        self.device = self.pictures.pixels.device
        self.cuda = self.device.type == "cuda"
        self.fabric = Fabric(accelerator="cuda" if self.cuda else "cpu", devices=1)
        self.model = self.model.to(self.device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.stream = torch.cuda.Stream() if self.cuda else None
        if self.cuda and self.capture and isinstance(self.model, MultiExitModel):
            network = self.model.network
            assert isinstance(network, AnyScaleExits)
            network.masked_block = COMPILED
        self.total = sum(stage.steps for stage in self.recipe.stages)

    def at(self, done: float) -> tuple[Stage, float]:
        """The stage at a share of the recipe's time, and the share of that stage."""
        before = 0.0
        for stage in self.recipe.stages:
            share = stage.steps / self.total
            if done < before + share or stage is self.recipe.stages[-1]:
                return stage, min(1.0, (done - before) / share)
            before += share
        raise AssertionError

    @property
    def stage(self) -> Stage | None:
        return None if self.task is None else self.task.stage

    def advance(self, done: float) -> None:
        """One step, `done` (0 to 1) of the recipe's time being over."""
        stage, share = self.at(done)
        if stage is not self.stage:
            self.settle()
            self.task = self.begin(stage)
        assert self.task is not None
        with self.on_stream():
            n = self.steps[stage.name]
            warm = min(1.0, (n + 1) / max(1, stage.warmup))  # counted in steps, the schedule in time
            self.task.rate_now.fill_(stage.learning_rate * stage.schedule(share) * warm)
            self.task.forgetting.fill_(1.0 if stage.ema is None else stage.forgetting(n))
            if self.graph is None:
                self.step(self.task)
            else:
                self.graph.replay()
        self.steps[stage.name] += 1
        if self.stream is not None:
            self.queued.append(self.stream.record_event())

    def has_room(self) -> bool:
        """Fewer than QUEUED_STEPS steps wait on the device: each recipe goes at its own pace."""
        while self.queued and self.queued[0].query():
            self.queued.pop(0)
        return len(self.queued) < QUEUED_STEPS

    def begin(self, stage: Stage) -> DeviceTask:
        assert isinstance(stage.samples, AnyScaleCrops)
        if self.start is not None and not self.steps:
            self.start.begin(self.model, stage)
        elif stage.prepare is not None:
            stage.prepare(self.model)
        self.steps[stage.name] = 0
        task = DeviceTask(self.model, stage, seed=(0,), out=Path())
        task.place(self.device)
        self.prepared = task.prepare(self.fabric, "auto")
        self.samples = DeviceCrops(self.pictures, stage.samples)
        if self.stream is not None:
            self.stream.wait_stream(torch.cuda.current_stream())
        capturable = self.cuda and self.capture and task.stage.optimizer == "adamw"
        self.graph = self.captured(task) if capturable else None
        return task

    def step(self, task: DeviceTask) -> None:
        """Sample, loss, gradient, optimizer, average: with AdamW nothing here waits for the host."""
        task.train_step(self.samples.batch(task.stage.batch), self.prepared)
        task.advance()

    def captured(self, task: DeviceTask) -> torch.cuda.CUDAGraph:
        torch.cuda.synchronize()
        with self.on_stream():
            for _ in range(WARM_STEPS):
                self.step(task)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self.stream):
            self.step(task)
        return graph

    def settle(self) -> None:
        """The averaged weights become the model's."""
        if self.task is None:
            return
        if self.cuda:
            torch.cuda.synchronize()
        self.task.settle()
        self.graph, self.task = None, None

    @contextlib.contextmanager
    def on_stream(self) -> Iterator[None]:
        with torch.cuda.stream(self.stream) if self.stream is not None else contextlib.nullcontext():
            yield

    @property
    def loss(self) -> float:
        """The mean of the last hundred steps or so."""
        return 0.0 if self.task is None else float(self.task.mean_loss)

    def result(self) -> nn.Module:
        """What inference would take if it ended here, on the CPU."""
        if self.stream is not None:
            self.stream.synchronize()
        model = self.model if self.task is None else self.task.averaged()
        return plain(model).cpu()


def train(runs: Sequence[DeviceTraining], seconds: float, out: Path, *, save_every: float = 120.0) -> None:
    """Run all side by side for `seconds`; each writes its weights to `out` as RECIPE.safetensors, at the
    end and every `save_every` seconds.

    Raises InvalidRequest for recipes that need the host."""
    out.mkdir(parents=True, exist_ok=True)
    for run in runs:
        if not all(isinstance(stage.samples, AnyScaleCrops) and stage.task is None for stage in run.recipe.stages):
            raise InvalidRequest(f"{run.recipe.name} has stages that need the host: train it by `scalewise train`")
    torch.backends.cudnn.benchmark = True
    started, reported, saved = time.monotonic(), 0.0, 0.0
    while (elapsed := time.monotonic() - started) < seconds:
        for run in runs:
            if run.has_room():
                run.advance(elapsed / seconds)
        if elapsed - reported >= REPORT_SECONDS:
            reported = elapsed
            parts = (f"{run.recipe.name} {run.steps} {run.loss:.5f}" for run in runs)
            print(f"{elapsed:6.0f} s  " + "  ".join(parts), flush=True)
        if elapsed - saved >= save_every:
            saved = elapsed
            _write(runs, out, elapsed)
    for run in runs:
        if len(run.steps) < len(run.recipe.stages):
            did = ", ".join(run.steps)
            raise InvalidRequest(f"{seconds:g} s were too few for all of {run.recipe.name}, it did {did}: give more")
        run.settle()
    _write(runs, out, time.monotonic() - started)


def _write(runs: Sequence[DeviceTraining], out: Path, seconds: float) -> None:
    for run in runs:
        recipe, device = run.recipe, torch.cuda.get_device_name() if run.cuda else "CPU"
        origin = None if run.start is None else run.start.origin
        begins = "" if origin is None else f" --start {origin.name}"
        model = recipe.network.build()
        model.load_state_dict({name: value.contiguous() for name, value in run.result().state_dict().items()})
        about: dict[str, Any] = {
            "network": recipe.name,
            "licence": recipe.licence,
            "recipe": f"python -m scalewise.recipes.resident {recipe.name}{begins}",
            "source": recipe.source,
            "steps": ", ".join(f"{name} {count}" for name, count in run.steps.items()),
            "hours": round(seconds / 3600, 4),
            "machine": f"{device}, {len(runs)} recipes side by side, torch {torch.__version__}",
        }
        about |= recipe.card
        recipe.network.save(model, out / f"{recipe.name}.safetensors", origin.added_to(about) if origin else about)


def load_pictures(folders: Sequence[Path], *, halves: bool = False) -> list[Tensor]:
    """(3, h, w) uint8 of every JPEG and PNG, by Pillow, in the order of their names. `halves`: and each again, reduced
    by two (boxes of 2×2 pixels): sharper from pixel to pixel than what a camera gives."""
    from concurrent.futures import ThreadPoolExecutor

    import numpy as np
    from PIL import Image

    def one(path: Path) -> list[Tensor]:
        whole = Image.open(path).convert("RGB")
        sizes = [whole, whole.reduce(2)] if halves else [whole]
        return [torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous() for picture in sizes]

    files = sorted(f for folder in folders for f in folder.iterdir() if f.suffix.lower() in (".jpg", ".jpeg", ".png"))
    with ThreadPoolExecutor() as pool:
        return [picture for found in pool.map(one, files) for picture in found]
