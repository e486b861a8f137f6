"""States on the disk: portable states stay small and are replaced."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from scalewise.errors import TrainingError
from scalewise.training.state import (
    LAST,
    check_space,
    read_portable,
    read_state,
    write_portable,
    write_state,
)


def test_a_state_is_read_as_it_was_written(tmp_path: Path) -> None:
    write_state(tmp_path, {"step": 7, "weights": {"a": torch.arange(500.0)}})
    state = read_state(tmp_path)
    assert state is not None and state["step"] == 7 and torch.equal(state["weights"]["a"], torch.arange(500.0))
    assert read_state(tmp_path / "none") is None


def test_other_files_are_refused(tmp_path: Path) -> None:
    torch.save({"format": 99}, tmp_path / LAST)
    with pytest.raises(TrainingError, match="no training state of this version"):
        read_state(tmp_path)
    (tmp_path / LAST).write_bytes(b"")
    with pytest.raises(TrainingError, match="cannot be read"):
        read_state(tmp_path)


def test_a_portable_state_is_half_as_large_and_replaced(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(30, 40), nn.BatchNorm1d(40))
    for step in (1, 2):
        path = write_portable(tmp_path, "net", model, {"step": step})
    assert [file.name for file in tmp_path.iterdir()] == ["net.safetensors"]
    found = read_portable(tmp_path, "net")
    assert found is not None and found[1] == {"step": 2}
    for name, value in model.state_dict().items():
        assert found[0][name].dtype == value.dtype and torch.allclose(found[0][name], value, rtol=1e-3, atol=1e-4)
    assert path.stat().st_size < 0.75 * 4 * sum(p.numel() for p in model.parameters())
    assert read_portable(tmp_path, "other") is None
    path.write_text("damaged")
    with pytest.raises(TrainingError, match="cannot be read"):
        read_portable(tmp_path, "net")


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="MiB free"):
        check_space(tmp_path, 1 << 60)
