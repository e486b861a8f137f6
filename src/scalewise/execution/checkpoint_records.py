"""The records of a run checkpoint: how they are written, and how what lies there is checked before it is used.

A record of JSON carries a seal, a digest of itself and of the record before it; files of tensors and rows of pixels
have their digest in such a record. Then each value is checked for its kind, as anybody can write a seal.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, get_args

import torch
from torch import Tensor

from scalewise.budget.budget import Effort
from scalewise.budget.cost import Macs
from scalewise.budget.route import Decision, Unit
from scalewise.geometry.grid import Size
from scalewise.models.model import RoutePlan
from scalewise.storage import open_plain, read_lines

JOB, PLAN, PIXELS, BANDS = "job.json", "plan.pt", "pixels", "bands.jsonl"
ARRIVALS = "arrivals.json"
EFFORT = ("effort-0.pt", "effort-1.pt")
MAX_RECORD_BYTES = 1 << 30  # of plan.pt and the effort maps
_CHUNK_BYTES = 1 << 20
_DECISION = ("unit", "extent", "choice", "cost", "evidence")

# What reading a damaged record can raise.
UNUSABLE = (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, RuntimeError, EOFError)
UNUSABLE += (UnpicklingError, RecursionError, OverflowError)


class DamagedRecord(ValueError):
    """A record that is not as it was written, or not one at all."""


@dataclass(frozen=True)
class JobRecords:
    """What lies in a folder, its seals checked: the request, side of a tile, rows and bytes of the canvas, decisions,
    lines of finished rows of tiles, and how many lines had to be left out."""

    request: dict[str, Any]
    side: int
    rows: int
    bytes: int
    plan: RoutePlan
    bands: list[dict[str, Any]]
    cut: int


@dataclass(frozen=True)
class EffortCells:
    """An effort map: LR pixels a side of a cell, and the cells."""

    unit: int
    cells: Tensor


def read_records(folder: Path) -> JobRecords:
    """What an earlier run wrote. Raises FileNotFoundError if there is nothing, and UNUSABLE."""
    record = json.loads(read_content(folder / JOB))
    check_seal(record)
    request, side, rows, length = (record[name] for name in ("request", "side", "rows", "bytes"))
    if not isinstance(request, dict) or not all(type(number) is int and number >= 0 for number in (side, rows, length)):
        raise DamagedRecord("job.json has another form")
    content = read_content(folder / PLAN)
    if digest_of(content) != record["plan"]:
        raise DamagedRecord("plan.pt is damaged")
    plan = _plan_of(torch.load(io.BytesIO(content), weights_only=True))
    bands, seal = [], record["seal"]
    lines = read_lines(folder / BANDS)
    for line in lines:
        try:
            check_seal(line, seal)
            _check_band(line)
        except UNUSABLE:
            break
        bands.append(line)
        seal = line["seal"]
    return JobRecords(request, side, rows, length, plan, bands, len(lines) - len(bands))


def read_arrived(path: Path) -> dict[str, list[int]]:
    """Absolute path → stamp, of the files that were about to get their names; none if it cannot be read."""
    try:
        return stamps_of(json.loads(read_content(path)))
    except UNUSABLE:
        return {}


def stamps_of(found: Any) -> dict[str, list[int]]:
    """Absolute path → stamp, from JSON. Raises UNUSABLE."""
    return {str(name): [int(size), int(date)] for name, (size, date) in found.items()}


def _check_band(line: Mapping[str, Any]) -> None:
    counts = [line["band"], line["lean"], line["full"], *line["ran"].values()]
    if set(line["ran"]) != {field.name for field in fields(Macs)} or not isinstance(line["pixels"], str):
        raise DamagedRecord("a line of bands.jsonl has another form")
    if not all(type(count) is int and count >= 0 for count in counts):
        raise DamagedRecord("a count of bands.jsonl is none")
    if not (isinstance(line["notes"], list) and all(isinstance(note, str) for note in line["notes"])):
        raise DamagedRecord("the notes of bands.jsonl are no text")


def sealed(record: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """A record with a digest of itself and of the record before it."""
    text = before + json.dumps(record, sort_keys=True)
    return {**record, "seal": digest_of(text.encode())}


def check_seal(record: Any, before: str = "") -> None:
    plain = {name: value for name, value in record.items() if name != "seal"}
    if sealed(plain, before)["seal"] != record["seal"]:
        raise DamagedRecord("a record is damaged")


def digest_of(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def read_content(path: Path) -> bytes:
    """All of a plain file. Raises OSError, UnwritableOutput for another kind, and ValueError for an absurd length."""
    with os.fdopen(open_plain(path, os.O_RDONLY), "rb") as file:
        if os.fstat(file.fileno()).st_size > MAX_RECORD_BYTES:
            raise DamagedRecord(f"{path.name} is too large")
        return file.read()


def digest_of_rows(pixels: Path, rows: tuple[int, int], height: int) -> str:
    """The digest of rows [first, last) of a canvas of `height` rows."""
    digest = hashlib.blake2b(digest_size=16)
    with os.fdopen(open_plain(pixels, os.O_RDONLY), "rb") as file:
        row = os.fstat(file.fileno()).st_size // height
        file.seek(rows[0] * row)
        left = (rows[1] - rows[0]) * row
        while left and (chunk := file.read(min(left, _CHUNK_BYTES))):
            digest.update(chunk)
            left -= len(chunk)
    return digest.hexdigest()


def tensor_bytes(value: Any) -> bytes:
    """As `torch.save` writes it; in memory first, as its errors on a full disk do not name the disk."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def plan_bytes(plan: RoutePlan) -> bytes:
    route = [{name: getattr(one, name) for name in _DECISION} for one in plan.route]
    effort, overhead = plan.effort.as_dict(), plan.overhead.as_dict()
    return tensor_bytes(
        {"effort": effort, "route": route, "macs": plan.macs, "full": plan.macs_full, "overhead": overhead}
    )


def _plan_of(content: Any) -> RoutePlan:
    """What `plan_bytes` wrote. Raises UNUSABLE."""
    if not isinstance(content, dict):
        raise DamagedRecord("plan.pt holds no plan")
    route = tuple(_decision_of(one) for one in content["route"])
    counts = [content["macs"], content["full"], *content["overhead"].values()]
    if not all(type(count) is int and count >= 0 for count in counts):
        raise DamagedRecord("a count of the plan is none")
    return RoutePlan(Effort(**content["effort"]), route, content["macs"], content["full"], Macs(**content["overhead"]))


def _decision_of(content: Any) -> Decision:
    one = Decision(**content)
    tensors = [one.choice, one.cost, *([] if one.evidence is None else [one.evidence])]
    if one.unit not in get_args(Unit) or type(one.extent) is not int or one.extent < 1:
        raise DamagedRecord("a decision is about no unit")
    if not all(isinstance(value, Tensor) for value in tensors):
        raise DamagedRecord("a decision holds no tensors")
    if one.choice.dtype != torch.int64 or one.choice.dim() != 3 or one.cost.dim() not in (1, 3):
        raise DamagedRecord("a decision has another shape")
    if one.choice.numel() and not 0 <= int(one.choice.min()) <= int(one.choice.max()) < len(one.cost):
        raise DamagedRecord("a decision takes an option that is none")
    return one


def read_effort(path: Path, line: Mapping[str, Any], size: Size) -> EffortCells:
    """The effort map of an input of `size` after the row of tiles of `line`. Raises UNUSABLE."""
    content = read_content(path)
    if digest_of(content) != line["effort"]:
        raise DamagedRecord("the effort map is damaged")
    found = torch.load(io.BytesIO(content), weights_only=True)
    unit, cells = found["unit"], found["cells"]
    if type(unit) is not int or unit < 1 or not isinstance(cells, Tensor) or cells.dtype != torch.float32:
        raise DamagedRecord("the effort map has another form")
    if tuple(cells.shape) != tuple(-(-n // unit) for n in size):
        raise DamagedRecord("the effort map has another size")
    return EffortCells(unit, cells)
