"""States on the disk: parts join to the same bytes, portable states stay small and are replaced."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from scalewise.errors import TrainingError
from scalewise.training.state import (
    LAST,
    check_space,
    join,
    read_portable,
    read_state,
    split,
    write_portable,
    write_state,
)


def test_parts_join_to_the_same_bytes(tmp_path: Path) -> None:
    source, parts, back = tmp_path / "last.ckpt", tmp_path / "parts", tmp_path / "back.ckpt"
    for size in (1000, 250):  # the parts of the larger file are replaced
        source.write_bytes(torch.randint(0, 256, (size,), dtype=torch.uint8).numpy().tobytes())
        assert len(split(source, parts, limit=300)) == -(-size // 300)
        assert max(part.stat().st_size for part in parts.iterdir()) <= 300
    join(parts, "last.ckpt", back)
    assert back.read_bytes() == source.read_bytes() and len(list(parts.iterdir())) == 2


def test_missing_and_damaged_parts_are_named(tmp_path: Path) -> None:
    source = tmp_path / "w.bin"
    source.write_bytes(bytes(range(200)))
    pieces = split(source, tmp_path / "parts", limit=90)
    pieces[1].write_bytes(b"other")
    with pytest.raises(TrainingError, match="damaged or mixed"):
        join(tmp_path / "parts", "w.bin", tmp_path / "back")
    pieces[1].unlink()
    with pytest.raises(TrainingError, match=r"lacks w\.bin\.part001"):
        join(tmp_path / "parts", "w.bin", tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_a_state_in_parts_is_read(tmp_path: Path) -> None:
    write_state(tmp_path, {"step": 7, "weights": {"a": torch.arange(500.0)}})
    split(tmp_path / LAST, tmp_path, limit=900)
    (tmp_path / LAST).unlink()
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


def test_a_portable_state_has_a_limit(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="more than 20"):
        write_portable(tmp_path, "large", nn.Linear(3500, 3500), {})
    with pytest.raises(TrainingError, match="MiB free"):
        check_space(tmp_path, 1 << 60)
