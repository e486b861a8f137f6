"""Options that several commands share, what users may write in them, and how numbers are printed."""

from __future__ import annotations

import functools
import inspect
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import typer

from scalewise.errors import InvalidRequest

if TYPE_CHECKING:
    from scalewise.budget.budget import Budget
    from scalewise.execution.plan import RunOptions
    from scalewise.geometry.grid import Box

Format = Literal["text", "csv", "markdown"]

RUNNING, FILES = "How to run", "Files"  # panels of the help
KEYWORD = inspect.Parameter.KEYWORD_ONLY
MAX_THREADS = 256  # where a machine has fewer cores
MAX_DIGITS = 100  # characters of an option that holds numbers

Device = Annotated[
    str | None,
    typer.Option(
        "--device",
        metavar="DEVICE",
        help="cpu, cuda, cuda:1 or mps. Default: CUDA if there is one.",
        rich_help_panel=RUNNING,
    ),
]
Number = Annotated[
    str,
    typer.Option(
        "--dtype",
        metavar="auto|fp32|bf16|fp16|int8",
        help="Number type. auto: bf16 where the machine is good at it. int8: blocks of our networks in 8 bits.",
        rich_help_panel=RUNNING,
    ),
]
Fp32 = Annotated[bool, typer.Option("--fp32", help="The same as --dtype fp32.", rich_help_panel=RUNNING)]
Threads = Annotated[
    int | None,
    typer.Option(
        "--threads", metavar="N", help="Threads to compute with. Default: one per core.", rich_help_panel=RUNNING
    ),
]
TileSide = Annotated[
    int,
    typer.Option(
        "--tile",
        "-t",
        metavar="N",
        help="Side of a tile in pixels of the input; 0: as memory allows.",
        rich_help_panel=RUNNING,
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace files that exist.", rich_help_panel=FILES)]
Json = Annotated[
    Path | None,
    typer.Option("--json", metavar="JSON", help="Write everything to this file, as JSON.", rich_help_panel=FILES),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")]
Data = Annotated[
    Path,
    typer.Option(
        "--data", metavar="DIR", help="A folder of HR pictures, or one with HR and LR_bicubic/X4 or the like."
    ),
]
Protocol = Annotated[
    str,
    typer.Option(
        "--protocol",
        metavar="NAME",
        help="How it is measured; docs/protocols.md lists them. Every dB names its protocol.",
    ),
]
OneScale = Annotated[float, typer.Option("--scale", "-s", metavar="FACTOR", help="The scale, a number of at least 1.")]
Native = Annotated[
    str | None,
    typer.Option(
        "--native",
        metavar="NAME=VALUE",
        help="Instead of a budget, the paper's own dial: eta=0.5 (ENAF), k=4 (ARM), lambda=0 (ClassSR), gamma=0.5 "
        "(CAMixerSR), …; path=K takes path K of a network that routes patches.",
    ),
]
Style = Annotated[Format, typer.Option("--format", metavar="text|csv|markdown", help="How the table is printed.")]


def run_options(
    tile: int = 0,
    device: str | None = None,
    dtype: str = "auto",
    fp32: bool = False,
    exact: bool = False,
    projection: str = "auto",
    max_memory: str | None = None,
    crop: str | None = None,
    beyond: str = "bicubic",
    effort_mask: str | None = None,
) -> RunOptions:
    """How to run, from the options. Raises InvalidRequest."""
    from scalewise.execution.plan import RunOptions
    from scalewise.geometry.projection import Projection
    from scalewise.machine.device import NumberType, pick_device
    from scalewise.machine.memory import parse_bytes

    if tile < 0:
        raise InvalidRequest(f"--tile {tile} is out of range: pixels of the input a side, or 0 to let memory decide")
    if dtype not in get_args(NumberType):
        raise InvalidRequest(f"--dtype {dtype} is not known: allowed are {', '.join(get_args(NumberType))}")
    if fp32 and dtype not in ("auto", "fp32"):
        raise InvalidRequest(f"--fp32 and --dtype {dtype} contradict each other: leave one out")
    if projection not in get_args(Projection):
        raise InvalidRequest(f"--projection {projection} is not known: allowed are {', '.join(get_args(Projection))}")
    pick_device(device)
    most = None if max_memory is None else parse_bytes(checked_length("--max-memory", max_memory))
    if most is not None and most < 1:
        raise InvalidRequest(f"--max-memory {max_memory} is out of range: at least a byte, as 2GiB or 800MB")
    window = None if crop is None else parse_crop(crop)
    number = "fp32" if fp32 else dtype
    return RunOptions(tile or None, device, number, exact, projection, most, window, beyond, effort_mask)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Report:
    """Where the numbers of a command go: into a JSON file if one is named, and onto the terminal unless `quiet`."""

    json: Path | None
    overwrite: bool
    quiet: bool

    def check(self, *others: Path | None) -> None:
        """Raise UnwritableOutput now, and not after the work is done, for the file and `others`."""
        check_files([*others, self.json], overwrite=self.overwrite)

    def write(self, value: Any) -> None:
        """Whole or not at all. Raises UnwritableOutput."""
        if self.json is not None:
            write_json(self.json, value, overwrite=self.overwrite)


def measuring(command: Callable[..., None]) -> Callable[..., None]:
    """A command that measures: its parameter `how: RunOptions` becomes the options --tile, --device, --dtype, --fp32
    and --threads, and `report: Report`, if it has one, --json, --overwrite and --quiet. A dB is measured in fp32 unless
    asked otherwise."""
    options = (("tile", TileSide, 0), ("device", Device, None), ("dtype", Number, "fp32"), ("fp32", Fp32, False))
    options += (("threads", Threads, None),)
    reports = "report" in command.__annotations__
    if reports:
        options = (("json", Json, None), ("overwrite", Overwrite, False), ("quiet", Quiet, False), *options)
    ours = [inspect.Parameter(name, KEYWORD, default=default, annotation=kind) for name, kind, default in options]

    @functools.wraps(command)
    def run(tile: int, device: str | None, dtype: str, fp32: bool, threads: int | None, **others: Any) -> None:
        use_threads(threads)
        if reports:
            others["report"] = Report(*(others.pop(name) for name in ("json", "overwrite", "quiet")))
        command(**others, how=run_options(tile, device, dtype, fp32))

    for name in ("how", "report"):  # no options; the module of RunOptions loads torch
        command.__annotations__.pop(name, None)
    parameters = inspect.signature(command, eval_str=True).parameters
    own = [one for name, one in parameters.items() if name not in ("how", "report")]
    run.__signature__ = inspect.Signature([*(one.replace(kind=KEYWORD) for one in own), *ours])  # type: ignore[attr-defined]
    run.__annotations__ = {one.name: one.annotation for one in (*own, *ours)}
    return run


def use_threads(count: int | None) -> None:
    """Set the number of threads for networks and libvips; to be called before libvips is loaded. Raises
    InvalidRequest."""
    if count is None:
        return
    most = max(MAX_THREADS, os.cpu_count() or 1)  # with far more, the library of threads crashes
    if not 1 <= count <= most:
        raise InvalidRequest(f"--threads {count} is out of range: allowed are 1 to {most}")
    os.environ["VIPS_CONCURRENCY"] = str(count)
    import torch

    torch.set_num_threads(count)


def checked_length(option: str, text: str) -> str:
    """Python refuses to read numbers of thousands of digits, and nothing here needs them. Raises InvalidRequest."""
    if len(text) > MAX_DIGITS:
        raise InvalidRequest(f"{option} {text[:20]!r}… has {len(text)} characters: at most {MAX_DIGITS} make sense")
    return text


def parse_crop(text: str) -> Box:
    """Left, top, width, height in pixels of the input, `100,50,640,480` → rows and columns of a box. Raises
    InvalidRequest."""
    parts = checked_length("--crop", text).split(",")
    if len(parts) != 4 or not all(part.strip().isdecimal() for part in parts) or "0" in (parts[2], parts[3]):
        raise InvalidRequest(f"--crop {text!r}: write X,Y,WIDTH,HEIGHT in pixels of the input, as 100,50,640,480")
    x, y, width, height = map(int, parts)
    return y, x, y + height, x + width


def wanted_budget(budget: str | None, native: str | None) -> Budget:
    """What --budget or --native says; the full model without both. Raises InvalidRequest."""
    from scalewise.budget.budget import DIALS, Budget

    if native is None:
        return Budget.parse(budget)
    if budget is not None:
        raise InvalidRequest("--budget and --native both say how much to spend: leave one out")
    found = Budget.parse(native) if "=" in native else None
    if found is None or found.kind != "native":
        raise InvalidRequest(f"--native {native!r}: write NAME=VALUE, with a name of {', '.join(DIALS)}")
    return found


def parse_budgets(text: str) -> list[float]:
    """Shares of the full model in percent: `25,50,75,100` → (0.25, …). Raises InvalidRequest."""
    from scalewise.budget.budget import Budget

    budgets = [Budget.parse(part if part.strip().endswith("%") else f"{part}%") for part in text.split(",")]
    return sorted({budget.value for budget in budgets})


def parse_dials(texts: list[str], models: list[str]) -> dict[str, list[Budget]]:
    """`eta=0.05,0.5` for all models, or one such list for each of them, in their order. Raises InvalidRequest."""
    if len(texts) not in (1, len(models)):
        raise InvalidRequest(
            f"{len(texts)} lists of a dial for {len(models)} models: give --dial once for all, or once for each model"
        )
    lists = []
    for text in texts:
        name, _, values = checked_length("--dial", text).partition("=")
        lists.append([wanted_budget(None, f"{name}={value}") for value in values.split(",")])
    return dict(zip(models, lists * (len(models) // len(lists)), strict=True))


def parse_factors(text: str) -> list[float]:
    """`2,4` → [2.0, 4.0]. Raises InvalidRequest."""
    try:
        return [float(part) for part in checked_length("--through", text).split(",")]
    except ValueError:
        raise InvalidRequest(f"--through {text!r}: write factors, as 2,4") from None


def write_json(path: Path, value: Any, *, overwrite: bool) -> None:
    """Whole or not at all. Raises UnwritableOutput."""
    from scalewise.storage import atomic_write

    with atomic_write(path, overwrite=overwrite) as temporary:
        temporary.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def check_files(paths: list[Path | None], *, overwrite: bool) -> None:
    """Raise UnwritableOutput now, and not after the work is done."""
    from scalewise.storage import check_writable

    for path in paths:
        if path is not None:
            check_writable(path, overwrite=overwrite)
