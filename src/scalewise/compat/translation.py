"""From official state-dict keys to ours: renaming by table, and checks of buffers that we compute ourselves."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from scalewise.errors import CheckpointError
from scalewise.grid import Size
from scalewise.layers import relative_position_index, shift_mask

State = Mapping[str, Tensor]
Table = tuple[tuple[str, str], ...]  # (pattern of the whole official key, our key with \1 ...)

MAX_WINDOW_PIXELS = 1024


@dataclass(frozen=True)
class Translation:
    """What an official encoder state dict says.

    `arguments` for our constructor, from shapes; `state` for its `load_state_dict`; `rest`: keys that are not the
    encoder's, untouched (tails, mean shift); `assumed`: what shapes leave open, with the published value.
    """

    arguments: dict[str, Any]
    state: dict[str, Tensor]
    rest: dict[str, Tensor]
    assumed: dict[str, Any] = field(default_factory=dict)


def rename(state: State, table: Table) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(renamed, not in the table)."""
    patterns = [(re.compile(pattern), ours) for pattern, ours in table]
    found: dict[str, Tensor] = {}
    rest: dict[str, Tensor] = {}
    for key, value in state.items():
        for pattern, ours in patterns:
            if match := pattern.fullmatch(key):
                found[match.expand(ours)] = value
                break
        else:
            rest[key] = value
    return found, rest


def require(state: State, key: str, network: str, dims: int) -> Tensor:
    """state[key] with `dims` dimensions; raises CheckpointError."""
    value = state.get(key)
    if value is None:
        raise CheckpointError(f"not a {network} state dict: {key} is missing")
    if value.dim() != dims:
        raise CheckpointError(f"not a {network} state dict: {key} has shape {tuple(value.shape)}, expected {dims} axes")
    return value


def count(state: State, pattern: str) -> int:
    """How many consecutive numbers from 0 the first group of `pattern` (matched at the start of keys) takes."""
    compiled = re.compile(pattern)
    numbers = {int(match[1]) for key in state if (match := compiled.match(key))}
    return next(i for i in range(len(numbers) + 1) if i not in numbers)


def drop_checked(state: dict[str, Tensor], key: str, expected: Tensor) -> None:
    """Remove a buffer if present; raises CheckpointError if it is not what we compute."""
    stored = state.pop(key, None)
    if stored is not None and (stored.shape != expected.shape or not torch.equal(stored.to(expected), expected)):
        raise CheckpointError(f"{key} is not what this network's windows give; the file is of an unknown variant")


def check_window(window: Size) -> None:
    """Refuse windows whose tables (pixels² entries) would fill the memory; published ones have 64 pixels."""
    if window[0] * window[1] > MAX_WINDOW_PIXELS:
        raise CheckpointError(f"window {window[0]}x{window[1]} is too large: at most {MAX_WINDOW_PIXELS} pixels")


def drop_window_buffers(state: dict[str, Tensor], index_key: str, mask_key: str, window: Size, shift: Size) -> None:
    """Remove the relative position index, and the mask of a shifted block (stored for one training size), if right."""
    had_index = index_key in state
    drop_checked(state, index_key, relative_position_index(window))
    if not any(shift):
        return
    stored = state.pop(mask_key, None)
    if stored is None:
        if had_index:
            raise CheckpointError(f"{mask_key} is missing: trained without shifted windows, which is not supported")
        return
    windows = len(stored) if stored.dim() == 3 else 0
    for rows in range(1, windows + 1):
        if windows % rows == 0 and torch.equal(full_mask(rows, windows // rows, window, shift), stored.float()):
            return
    raise CheckpointError(f"{mask_key} is not what this network's windows give; the file is of an unknown variant")


def full_mask(rows: int, columns: int, window: Size, shift: Size) -> Tensor:
    """(rows · columns, n, n): the mask of every window, as official checkpoints store it."""
    last_row = torch.arange(rows) == rows - 1
    last_column = torch.arange(columns) == columns - 1
    return shift_mask(window, shift)[last_row.long().unsqueeze(1), last_column.long()].flatten(0, 1)
