"""How tables, numbers, sizes and names are printed."""

from __future__ import annotations

import csv
import io
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

from scalewise.errors import OutputExists, RequestDiffers

if TYPE_CHECKING:
    from scalewise.evaluate import Comparison
    from scalewise.evaluate.tables import Reproduced


def reproduced_table(rows: Sequence[Reproduced], style: Literal["text", "csv", "markdown"] = "text") -> str:
    """published | ours | difference | FLOPs published | ours | parameters | GMACs at 1280×720 | why absent. CSV also
    has the source and the note of every number."""
    from scalewise.evaluate.tables import MEASURED

    header = ["method", "dial", "dataset", "scale", "metric", "protocol"]
    header += ["published", "ours", "difference", "FLOPs", "our count", "parameters", "GMACs", "why absent"]
    if style == "csv":
        header += ["source", "note"]
    cells = []
    for row in rows:
        printed = row.published
        digits = 1 if printed.metric == "milliseconds" else 4
        if "psnr" in printed.metric:
            digits = max(2, decimals(printed.value))
        line = [printed.method, printed.dial, printed.dataset, f"{printed.scale:g}", printed.metric, printed.protocol]
        line += [f"{printed.value:.{digits}f}" if printed.metric in MEASURED else f"{printed.value:g}"]
        line += ["" if math.isnan(row.ours) else f"{row.ours:.{digits}f}"]
        line += ["" if math.isnan(row.difference) else f"{row.difference:+.{digits}f}"]
        cost = "" if row.cost is None else f"{row.cost.mean / 1e6:.1f}M ({row.cost.share:.1%})"
        if not cost and row.flops is not None:
            cost = f"{row.flops[1] / 1e6:.1f}M"
        if row.timing is not None and row.timing.threads > 1:
            cost = f"{row.timing.all_threads:.0f} ms on {row.timing.threads} threads"
        count = ["", ""] if row.count is None else [f"{row.count.parameters:,}", f"{row.count.macs / 1e9:.2f}"]
        line += [printed.flops, cost, *count, row.absent]
        cells.append([*line, printed.source, printed.note] if style == "csv" else line)
    return table_text(header, cells, style)


def decimals(value: float) -> int:
    """How many a printed number has."""
    return len(repr(value).partition(".")[2])


def comparison_table(rows: Sequence[Comparison], style: Literal["text", "csv", "markdown"] = "text") -> str:
    """One set of predictions under all protocols: what `compare_protocols` found."""
    cells = []
    for row in rows:
        numbers = ["", ""] if row.absent else [f"{row.psnr:.2f}", f"{row.ssim:.4f}"]
        cells.append([row.protocol, *numbers, row.absent])
    return table_text(["protocol", "PSNR", "SSIM", "why absent"], cells, style)


def table_text(header: Sequence[str], rows: Sequence[Sequence[str]], style: Literal["text", "csv", "markdown"]) -> str:
    """A table as aligned text, CSV or Markdown, with a newline at its end."""
    if style == "csv":
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([header, *rows])
        return text.getvalue()
    cells = [[cell.replace("|", "\\|") if style == "markdown" else cell for cell in row] for row in [header, *rows]]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    cells.insert(1, ["-" * width for width in widths])
    left, between, right = ("| ", " | ", " |") if style == "markdown" else ("", "  ", "")
    lines = [left + between.join(map(str.ljust, row, widths)) + right for row in cells]
    return "".join(line.rstrip() + "\n" for line in lines)


@contextmanager
def progress_bar(quiet: bool = False) -> Iterator[Callable[[str, float], None]]:
    """A bar on stderr with the time left: takes what is being done, and the share done. None without a terminal.

    It appears with the first share, so that what is printed before the work begins does not stick to it, and goes when
    the block ends, before any error is printed.
    """
    if quiet or not sys.stderr.isatty():
        yield lambda doing, share: None
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    progress = Progress(*columns, console=Console(stderr=True), transient=True)
    task = progress.add_task("", total=1.0)

    def show(doing: str, share: float) -> None:
        if not progress.live.is_started:
            progress.start()
        progress.update(task, description=escape(format_line(doing)), completed=share)

    try:
        yield show
    finally:
        progress.stop()


EXTRAS = {  # the module that is missing → the extra that brings it
    "lightning": "train",
    "tensorboard": "train",
    "fastapi": "app",
    "uvicorn": "app",
    "python_multipart": "app",
    "ray": "ray",
    "av": "video",
    "rasterio": "geo",
    "onnx": "export",
    "onnxscript": "export",
    "onnxruntime": "bench",
    "openvino": "bench",
}


def missing_extra(error: ModuleNotFoundError) -> str | None:
    """What to install, if an optional library is missing; None for any other module, whose absence is our mistake."""
    module = (error.name or "").partition(".")[0]
    if module not in EXTRAS:
        return None
    extra = EXTRAS[module]
    return (
        f"this needs {module}, which is not installed: pip install 'scalewise[{extra}]', or '.[{extra}]' in its folder"
    )


def explain(error: BaseException) -> str:
    """An error as one line, with the option that helps and what an interrupted run keeps."""
    if isinstance(error, OutputExists):
        message = f"{error.path!r} exists: --overwrite replaces it, -o names another"
    elif isinstance(error, KeyboardInterrupt):
        message = "interrupted"
    elif isinstance(error, RequestDiffers):
        message = (
            f"{error.folder!r} holds {error.bands} finished rows of tiles of a run with another "
            f"{', '.join(error.changed)}: the former command goes on, --restart drops them, -o names another output"
        )
    else:
        message = options_in(str(error))
    return format_line("; ".join([message, *getattr(error, "__notes__", ())]))


# Arguments of the library that its errors name, by the options that give them.
OPTIONS = {
    "max_memory": "--max-memory",
    "resume it, or choose another folder": "--resume goes on, --out names another",
    "resume it, or restart to drop it": "--resume goes on, --restart drops it",
    "or restart to drop it": "or --restart to drop it",
    "leave out the exact scale": "leave out --exact-scale",
}


def options_in(message: str) -> str:
    """An error of the library, with its arguments as options of the command line."""
    for words, option in OPTIONS.items():
        message = message.replace(words, option)
    return message


def format_line(text: str) -> str:
    """A name as it can be shown: a file's may hold line breaks, and signs that a terminal obeys."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def amount(value: float) -> str:
    """A count with three figures: `812 G`."""
    for unit in ("", "k", "M", "G", "T"):
        if abs(value) < 999.5:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} P"


def duration(seconds: float) -> str:
    """`12 s`, `3 min 20 s`, `2 h 5 min`."""
    whole = max(1, round(seconds))
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"


def memory(value: float) -> str:
    """Bytes: `1.1 GiB`, `20 MiB`, `3 KiB`."""
    if value < 2**20:
        return f"{value / 2**10:.0f} KiB"
    return f"{value / 2**30:.1f} GiB" if value >= 2**30 else f"{value / 2**20:.0f} MiB"
