"""The options of `scalewise upscale`, as they are named, grouped and explained in its help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scalewise.cli.options import FILES, RUNNING

SIZE = "How large (one of these)"

Inputs = Annotated[
    list[str] | None, typer.Argument(metavar="INPUT...", help="Pictures, and folders of them; - is stdin.")
]
Scale = Annotated[
    str | None,
    typer.Option(
        "--scale",
        "-s",
        metavar="FACTOR",
        help="3.7, or width x height: 2x1.5. From 1 to 100.",
        rich_help_panel=SIZE,
    ),
]
Size = Annotated[
    str | None,
    typer.Option(
        "--size",
        metavar="WxH",
        help="Width x height in pixels: 3840x2160; 3840x or x2160 alone keeps the shape.",
        rich_help_panel=SIZE,
    ),
]
LongEdge = Annotated[
    int | None, typer.Option("--long-edge", metavar="N", help="Pixels of the longer side.", rich_help_panel=SIZE)
]
MoreInputs = Annotated[
    list[str] | None,
    typer.Option("--input", "-i", metavar="INPUT", help="The same as INPUT.", rich_help_panel=FILES),
]
Output = Annotated[
    str | None,
    typer.Option(
        "--output",
        "-o",
        metavar="OUT",
        help="A file, a folder (one that exists, ends with /, or for a folder of pictures), or - for stdout. Default: "
        "next to the input, with a suffix.",
        rich_help_panel=FILES,
    ),
]
Model = Annotated[
    str,
    typer.Option(
        "--model",
        "-n",
        metavar="MODEL|FILE",
        help="A name that `scalewise models` lists, or a weight file: FILE, FILE:key=value,…",
    ),
]
Budget = Annotated[
    str | None,
    typer.Option(
        "--budget",
        metavar="SHARE|SECONDS|MACS",
        help="A share of the full model's MACs, 50% or 0.5, seconds: 2s, 1500ms, or MACs: 2e12macs. Default: 100%.",
    ),
]
ExactScale = Annotated[
    bool,
    typer.Option(
        "--exact-scale",
        help="Refuse scales that the model was not made for, instead of resizing.",
        rich_help_panel=RUNNING,
    ),
]
MaxMemory = Annotated[
    str | None,
    typer.Option(
        "--max-memory",
        metavar="SIZE",
        help="What the process, or the GPU, may hold: 2GiB, 800MB. Default: half of what is free.",
        rich_help_panel=RUNNING,
    ),
]
Crop = Annotated[
    str | None,
    typer.Option(
        "--crop",
        metavar="X,Y,W,H",
        help="Only this part, in pixels of the input, as it will be in the whole picture.",
        rich_help_panel=RUNNING,
    ),
]
Beyond = Annotated[
    str,
    typer.Option(
        "--beyond",
        metavar="bicubic|again",
        help="Above the largest scale of a model of fixed scales: bicubic, or the model again on its own output.",
        rich_help_panel=RUNNING,
    ),
]
EffortMask = Annotated[
    str | None,
    typer.Option(
        "--effort-mask",
        metavar="PICTURE",
        help="Where to spend effort, stretched over the input: white all of it, black the least.",
        rich_help_panel=RUNNING,
    ),
]
Restore = Annotated[
    str | None,
    typer.Option(
        "--restore",
        metavar="FILE",
        help="A network of scale 1 (noise, blur, JPEG) that runs before the enlargement.",
        rich_help_panel=RUNNING,
    ),
]
Resume = Annotated[
    bool | None,
    typer.Option(
        "--resume/--no-resume",
        help="Keep what is finished next to the output, so that the same command goes on where it was cut off. "
        "Default: for runs of more than a minute.",
        rich_help_panel=RUNNING,
    ),
]
Restart = Annotated[
    bool,
    typer.Option(
        "--restart",
        help="Start again where an unfinished run of the same output had other options: its finished part is dropped.",
        rich_help_panel=RUNNING,
    ),
]
Engine = Annotated[
    str,
    typer.Option(
        "--engine",
        metavar="local|ray",
        help="ray: a pool of workers, on one machine or many.",
        rich_help_panel=RUNNING,
    ),
]
Address = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="HOST",
        help="A Ray cluster: auto, or ray://host:10001. Default: one on this machine, for this run.",
        rich_help_panel=RUNNING,
    ),
]
Workers = Annotated[
    int | None,
    typer.Option("--workers", metavar="N", help="Ray workers. Default: as many as fit.", rich_help_panel=RUNNING),
]
Projection = Annotated[
    str,
    typer.Option(
        "--projection",
        metavar="auto|flat|erp",
        help="erp: a 360° picture (equirectangular), without a seam. auto: if its metadata say so.",
        rich_help_panel=RUNNING,
    ),
]
EffortMap = Annotated[
    str | None,
    typer.Option(
        "--effort-map",
        metavar="PNG",
        help="Draw where the work went, to a .png; a folder for several inputs.",
        rich_help_panel=FILES,
    ),
]
Report = Annotated[
    Path | None,
    typer.Option(
        "--report",
        metavar="JSON",
        help="Write the costs as JSON; a list for several inputs or a folder.",
        rich_help_panel=FILES,
    ),
]
Recursive = Annotated[
    bool, typer.Option("--recursive", "-r", help="Sub-folders too; they are kept below -o.", rich_help_panel=FILES)
]
Suffix = Annotated[
    str | None,
    typer.Option(
        "--suffix",
        metavar="TEXT",
        help="Appended to the name. Default: _x3.7 next to the input, nothing in a folder of -o.",
        rich_help_panel=FILES,
    ),
]
Ext = Annotated[
    str | None,
    typer.Option(
        "--ext", metavar="EXT", help="png, jpg, webp, tif, avif, gif. Default: the input's.", rich_help_panel=FILES
    ),
]
Quality = Annotated[
    int | None,
    typer.Option(
        "--quality", metavar="N", help="1 to 100, for jpg, webp and avif. Default: 95.", rich_help_panel=FILES
    ),
]
Lossless = Annotated[
    bool, typer.Option("--lossless", help="For webp and avif; png and tif always are.", rich_help_panel=FILES)
]
Strip = Annotated[
    bool,
    typer.Option(
        "--strip",
        help="Pixels only: no metadata, no profile (colours become sRGB), no note.",
        rich_help_panel=FILES,
    ),
]
Dpi = Annotated[
    str,
    typer.Option(
        "--dpi",
        metavar="keep|scale",
        help="Keep the resolution (prints grow), or scale it (prints keep their size).",
        rich_help_panel=FILES,
    ),
]
