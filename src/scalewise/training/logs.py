"""The log of a run: OUT/log.jsonl, TensorBoard where it is installed, one line on stderr with it/s and time left."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

LOG_NAME = "log.jsonl"
SECONDS_BETWEEN_LINES = 30.0  # where stderr is not a terminal
SECONDS_BETWEEN_DRAWINGS = 0.2  # from one redraw of the line to the next, where it is


class Log:
    """`tick` at every step draws the line; `write` appends numbers. Only one process is `enabled`."""

    def __init__(self, out: Path, *, enabled: bool = True, quiet: bool = False) -> None:
        self.out, self.enabled, self.quiet = out, enabled, quiet
        self.values: dict[str, float] = {}
        self.validation: dict[str, float] = {}  # the last that was seen
        self.stage = ""
        self.began, self.first, self.drawn = 0.0, 0, 0.0

    def __enter__(self) -> Log:
        self.file = (self.out / LOG_NAME).open("a") if self.enabled else None
        self.board: Any = None
        if self.enabled:
            with suppress(ImportError):  # TensorBoard is optional
                from torch.utils.tensorboard import SummaryWriter

                self.board = SummaryWriter(str(self.out / "tensorboard"))
        return self

    def __exit__(self, *_: object) -> None:
        if self.drawn and not self.quiet and sys.stderr.isatty():
            print(file=sys.stderr)
        if self.file is not None:
            self.file.close()
        if self.board is not None:
            self.board.close()

    def tick(self, stage: str, step: int, steps: int) -> None:
        now = time.monotonic()
        if stage != self.stage:
            self.stage, self.began, self.first = stage, now, step
            return
        terminal = sys.stderr.isatty()
        wait = SECONDS_BETWEEN_DRAWINGS if terminal else SECONDS_BETWEEN_LINES
        if self.quiet or (step < steps and now - self.drawn < wait):
            return
        self.drawn = now
        speed = (step - self.first) / max(now - self.began, 1e-9)
        left = int((steps - step) / max(speed, 1e-9))
        values = "  ".join(f"{name} {value:.4g}" for name, value in self.values.items())
        clock = f"{left // 3600}:{left // 60 % 60:02d}:{left % 60:02d}"
        line = f"{stage} {step}/{steps}  {speed:.2f} it/s  {clock} left  {values}"
        print(f"\r{line:<100}" if terminal else line, end="" if terminal else "\n", file=sys.stderr, flush=True)

    def write(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        """Numbers of one step. A resumed run may write a step again: the last line of a step counts."""
        self.values |= values
        self.validation |= {name[4:]: value for name, value in values.items() if name.startswith("val/")}
        if self.file is None:
            return
        now = time.monotonic()
        speed = (step - self.first) / max(now - self.began, 1e-9)
        line = {"stage": stage, "step": step, **values, "it_per_s": round(speed, 4), "time": round(time.time(), 1)}
        self.file.write(json.dumps(line) + "\n")
        self.file.flush()
        if self.board is not None:
            for name, value in values.items():
                self.board.add_scalar(f"{stage}/{name}", value, step)
