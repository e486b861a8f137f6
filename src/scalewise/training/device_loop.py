"""Training without a host in the way: pictures, samples and steps on one device, recipes side by side, by the clock.

The engine (`engine.py`) trains anything anywhere, resumes exactly, and spends a few milliseconds of Python per step. A
small network leaves a large GPU idle meanwhile. Here a stage's whole step (sample, loss, gradient, AdamW, average) is
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

from scalewise.data.crops import AnyScaleCrops
from scalewise.data.resident import DeviceCrops, Pictures
from scalewise.errors import InvalidRequest
from scalewise.machine.device import fast_bf16
from scalewise.models.multi_exit import MultiExitModel
from scalewise.multiexit.anyscale import AnyScaleExits, masked_block
from scalewise.training.recipe import Recipe
from scalewise.training.stage import Stage, StepContext

WARM_STEPS = 3  # before a capture: libraries choose their algorithms, the optimizer makes its state
AHEAD = 4  # steps that the host may be ahead of the device
REPORT = 10.0  # seconds between lines
FIRST_AVERAGES = 10  # the average forgets faster while it has seen little: decay ≤ (1 + n) / (10 + n)
lists: Any = torch  # its operations on lists of tensors have no public name
COMPILED = torch.compile(masked_block, dynamic=False)  # one kernel each for what lies between convolutions


@dataclass
class Run:
    """One recipe on its way. `weights` are what its finished stages left, or the average of the running one."""

    recipe: Recipe
    pictures: Pictures
    model: nn.Module
    start: str = ""  # the file that the first weights are from, for the card
    capture: bool = True  # as a CUDA graph; not for networks or losses that wait for the device
    steps: dict[str, int] = field(default_factory=dict)
    ahead: list[Any] = field(default_factory=list)
    stage: Stage | None = None

    def __post_init__(self) -> None:
        self.device = self.pictures.pixels.device
        self.cuda = self.device.type == "cuda"
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

    def advance(self, done: float) -> None:
        """One step, `done` (0 to 1) of the recipe's time being over."""
        stage, share = self.at(done)
        if stage is not self.stage:
            self.settle()
            self.begin(stage)
        with self.on_stream():
            self.rate.fill_(self.rate_at(share))
            n = self.steps[stage.name]
            decay = min(stage.ema, (1 + n) / (FIRST_AVERAGES + n)) if stage.ema is not None else 0.0
            self.towards.fill_(1 - decay)
            if self.graph is None:
                self.step()
            else:
                self.graph.replay()
        self.steps[stage.name] += 1
        if self.stream is not None:
            self.ahead.append(self.stream.record_event())

    def has_room(self) -> bool:
        """Fewer than AHEAD steps wait on the device: each recipe goes at its own pace."""
        while self.ahead and self.ahead[0].query():
            self.ahead.pop(0)
        return len(self.ahead) < AHEAD

    def rate_at(self, share: float) -> float:
        """By time, the recipe's warm-up counted in steps."""
        assert self.stage is not None
        warm = min(1.0, (self.steps[self.stage.name] + 1) / max(1, self.stage.warmup))
        return self.stage.learning_rate * self.stage.schedule(share) * warm

    def begin(self, stage: Stage) -> None:
        assert isinstance(stage.samples, AnyScaleCrops)
        self.stage = stage
        self.steps[stage.name] = 0
        if stage.prepare is not None:
            stage.prepare(self.model)
        self.model.train().requires_grad_(stage.trains is None)
        self.learnt = list(stage.trains(self.model)) if stage.trains else list(self.model.parameters())
        for parameter in self.learnt:
            parameter.requires_grad_(True)
        self.average = [parameter.detach().clone() for parameter in self.learnt]
        self.samples = DeviceCrops(self.pictures, stage.samples)
        self.rate = torch.tensor(0.0, device=self.device)
        self.towards = torch.tensor(1.0, device=self.device)
        self.loss = torch.zeros((), device=self.device)
        self.optimizer = torch.optim.AdamW(
            self.learnt,
            self.rate,
            betas=stage.betas,
            weight_decay=stage.decay,
            fused=True,
            capturable=self.cuda,
        )
        if self.stream is not None:
            self.stream.wait_stream(torch.cuda.current_stream())
        self.graph = self.captured() if self.cuda and self.capture else None

    def step(self) -> None:
        """Sample, loss, gradient, AdamW, average: nothing here waits for the host."""
        stage = self.stage
        assert stage is not None
        batch = self.samples.batch(stage.batch)
        low = not stage.exact and fast_bf16(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=low, cache_enabled=False):
            loss = stage.loss(self.model, batch, StepContext(0, stage.steps, None))["loss"]
        self.optimizer.zero_grad(set_to_none=False)
        loss.backward()
        if stage.clip is not None:
            nn.utils.clip_grad_norm_(self.learnt, stage.clip, foreach=True)
        self.optimizer.step()
        with torch.no_grad():
            change = lists._foreach_sub(self.learnt, self.average)
            lists._foreach_mul_(change, self.towards)
            lists._foreach_add_(self.average, change)
            self.loss.lerp_(loss.detach().float(), 0.01)

    def captured(self) -> torch.cuda.CUDAGraph:
        torch.cuda.synchronize()
        with self.on_stream():
            for _ in range(WARM_STEPS):
                self.step()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self.stream):
            self.step()
        return graph

    def settle(self) -> None:
        """The averaged weights become the model's."""
        if self.stage is None:
            return
        if self.cuda:
            torch.cuda.synchronize()
        if self.stage.ema is not None:
            with torch.no_grad():
                lists._foreach_copy_(self.learnt, self.average)
        self.graph, self.stage = None, None

    @contextlib.contextmanager
    def on_stream(self) -> Iterator[None]:
        with torch.cuda.stream(self.stream) if self.stream is not None else contextlib.nullcontext():
            yield

    def weights(self) -> dict[str, Tensor]:
        """What inference would take if it ended here, on the CPU."""
        if self.stream is not None:
            self.stream.synchronize()
        state = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
        if self.stage is not None and self.stage.ema is not None:
            averaged = {id(p): a for p, a in zip(self.learnt, self.average, strict=True)}
            for name, parameter in self.model.named_parameters():
                if id(parameter) in averaged:
                    state[name] = averaged[id(parameter)].clone()
        return {name: value.cpu().contiguous() for name, value in state.items()}


def train(runs: Sequence[Run], seconds: float, out: Path, *, save_every: float = 120.0) -> None:
    """Run all side by side for `seconds`; what each has is written to `out` as RECIPE.safetensors, also on the way.

    Raises InvalidRequest for recipes that need the host."""
    out.mkdir(parents=True, exist_ok=True)
    for run in runs:
        if not all(isinstance(stage.samples, AnyScaleCrops) and stage.way is None for stage in run.recipe.stages):
            raise InvalidRequest(f"{run.recipe.name} has stages that need the host: train it by `scalewise train`")
    torch.backends.cudnn.benchmark = True
    started, reported, saved = time.monotonic(), 0.0, 0.0
    while (elapsed := time.monotonic() - started) < seconds:
        for run in runs:
            if run.has_room():
                run.advance(elapsed / seconds)
        if elapsed - reported >= REPORT:
            reported = elapsed
            parts = (f"{run.recipe.name} {run.steps} {float(run.loss):.5f}" for run in runs)
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


def _write(runs: Sequence[Run], out: Path, seconds: float) -> None:
    for run in runs:
        recipe, device = run.recipe, torch.cuda.get_device_name() if run.cuda else "CPU"
        kept = recipe.network.build()
        kept.load_state_dict(run.weights())
        about: dict[str, Any] = {
            "network": recipe.name,
            "licence": recipe.licence,
            "recipe": f"python -m scalewise.recipes.resident {recipe.name}{run.start and f' --start {run.start}'}",
            "source": recipe.source,
            "steps": ", ".join(f"{name} {count}" for name, count in run.steps.items()),
            "hours": round(seconds / 3600, 4),
            "machine": f"{device}, {len(runs)} recipes side by side, torch {torch.__version__}",
        }
        recipe.network.save(kept, out / f"{recipe.name}.safetensors", about | dict(recipe.card))


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
