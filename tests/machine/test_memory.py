"""Memory: the limits of control groups, of both versions, on made-up files; and peaks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch

from scalewise.errors import InvalidRequest
from scalewise.machine import memory
from scalewise.machine.memory import PeakMemory, cgroup_free_bytes, free_bytes, is_out_of_memory, parse_bytes

MIB = 1 << 20


def group(folder: Path, version: int, limit: int | str, usage: int, reclaimable: int = 0) -> None:
    """The files of one control group."""
    folder.mkdir(parents=True, exist_ok=True)
    names = memory.CGROUP_FILES[version]
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{usage}\n")
    (folder / "memory.stat").write_text(f"anon 5\n{names[2]} {reclaimable}\nslab 7\n")


@pytest.fixture
def own(tmp_path: Path) -> Path:
    return tmp_path / "cgroup"


def test_version_2_counts_every_group_above(tmp_path: Path, own: Path) -> None:
    root = tmp_path / "fs"
    own.write_text("0::/a/b\n")
    group(root / "a" / "b", 2, "max", 100 * MIB)
    assert cgroup_free_bytes(own, root) is None
    group(root / "a", 2, 700 * MIB, 300 * MIB, 50 * MIB)
    assert cgroup_free_bytes(own, root) == 450 * MIB
    group(root / "a" / "b", 2, 150 * MIB, 100 * MIB)
    assert cgroup_free_bytes(own, root) == 50 * MIB


def test_version_1_is_read_from_the_folder_of_memory(tmp_path: Path, own: Path) -> None:
    root = tmp_path / "fs"
    own.write_text("12:cpu,cpuacct:/other\n9:memory:/docker/1234\n0::/unused\n")
    group(root / "memory" / "docker" / "1234", 1, 700 * MIB, 200 * MIB, 20 * MIB)
    assert cgroup_free_bytes(own, root) == 520 * MIB


@pytest.mark.parametrize(("line", "version"), [("9:memory:/docker/1234", 1), ("0::/docker/1234", 2)])
def test_a_container_sees_its_own_group_at_the_root(tmp_path: Path, own: Path, line: str, version: int) -> None:
    root = tmp_path / "fs"
    own.write_text(line + "\n")
    group(root / "memory" if version == 1 else root, version, 512 * MIB, 500 * MIB)
    assert cgroup_free_bytes(own, root) == 12 * MIB


def test_more_used_than_allowed_leaves_nothing(tmp_path: Path, own: Path) -> None:
    own.write_text("0::/\n")
    group(tmp_path / "fs", 2, 100 * MIB, 120 * MIB)
    assert cgroup_free_bytes(own, tmp_path / "fs") == 0


def test_without_control_groups_there_is_no_limit(tmp_path: Path, own: Path) -> None:
    assert cgroup_free_bytes(own, tmp_path) is None
    own.write_text("nonsense\n0::/gone\n3:memory:/gone\n")
    assert cgroup_free_bytes(own, tmp_path) is None


def test_free_memory_is_the_lesser_of_both(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "cgroup_free_bytes", lambda: 7 * MIB)
    assert free_bytes(torch.device("cpu")) == 7 * MIB
    monkeypatch.setattr(memory, "cgroup_free_bytes", lambda: None)
    assert free_bytes(torch.device("cpu")) > 0 or psutil.virtual_memory().available == 0


def test_a_peak_between_two_samples_is_seen_where_it_is_the_highest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "INTERVAL_SECONDS", 3600)
    monkeypatch.setattr(memory, "used_bytes", lambda device: 10 * MIB)
    monkeypatch.setattr(memory, "_shared_bytes", lambda: 3 * MIB)
    for highest, seen in ((iter((50, 90)), 87), (iter((90, 90)), 10), (iter((0, 0)), 10)):
        monkeypatch.setattr(memory, "_highest_resident", lambda highest=highest: next(highest) * MIB)
        with PeakMemory(torch.device("cpu")) as peak:
            pass
        assert peak.bytes == seen * MIB


def test_absurd_amounts_are_refused_in_one_line() -> None:
    for wrong in ("9" * 400, "1" + "0" * 5000 + "GB"):
        with pytest.raises(InvalidRequest) as caught:
            parse_bytes(wrong)
        assert len(str(caught.value)) < 120


def test_messages_of_missing_memory_are_known() -> None:
    assert is_out_of_memory(MemoryError()) and is_out_of_memory(RuntimeError("could not create a primitive"))
    assert not is_out_of_memory(RuntimeError("sizes do not match")) and not is_out_of_memory(ValueError("memory"))


def test_measuring_a_picture_loads_no_compiler() -> None:
    """torch's takes two seconds to import, and leaves a folder among the temporary files."""
    code = (
        "import sys, numpy as np, scalewise; "
        "scalewise.upscale(np.zeros((24, 24, 3), np.uint8), 2, budget='5s', model='bicubic'); "
        "print([name for name in ('torch._dynamo', 'torch._inductor') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
