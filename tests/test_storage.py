"""A file is whole or not there."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from scalewise.errors import UnwritableOutput
from scalewise.storage import atomic_write


def test_the_file_appears_only_when_it_is_whole(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "a.json") as temporary:
        temporary.write_text("{}")
        assert not (tmp_path / "a.json").exists() and temporary.parent == tmp_path
    assert (tmp_path / "a.json").read_text() == "{}" and len(list(tmp_path.iterdir())) == 1


def test_the_old_file_survives_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("old")
    with pytest.raises(KeyError), atomic_write(tmp_path / "a.json") as temporary:
        temporary.write_text("half")
        raise KeyError
    assert (tmp_path / "a.json").read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_an_existing_file_is_kept_unless_overwriting_is_allowed(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("old")
    with pytest.raises(UnwritableOutput, match="exists"), atomic_write(tmp_path / "a.json", overwrite=False):
        raise AssertionError("the block must not run")
    with atomic_write(tmp_path / "a.json") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "a.json").read_text() == "new"


def test_the_longest_name_can_be_written(tmp_path: Path) -> None:
    name = "a" * 250 + ".json"
    with atomic_write(tmp_path / name) as temporary:
        temporary.write_text("{}")
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.skipif(os.name != "posix", reason="permission bits")
def test_others_may_read_it_as_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "usual").touch()
    with atomic_write(tmp_path / "a.json") as temporary:
        temporary.write_text("{}")
    assert stat.S_IMODE((tmp_path / "a.json").stat().st_mode) == stat.S_IMODE((tmp_path / "usual").stat().st_mode)


def test_a_full_disk_is_an_unwritable_output_and_other_errors_are_not(tmp_path: Path) -> None:
    with pytest.raises(UnwritableOutput, match="free some space") as caught, atomic_write(tmp_path / "a.json"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert "\n" not in str(caught.value)
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "a.json"):
        (tmp_path / "another").read_text()
    assert list(tmp_path.iterdir()) == []
