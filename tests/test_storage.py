"""A file is whole or not there."""

from __future__ import annotations

import errno
import os
import random
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from scalewise import storage
from scalewise.errors import OutputExists, UnwritableOutput
from scalewise.storage import append_line, atomic_write, locked, on_arrival, read_lines, stamp

ROOT = Path(__file__).resolve().parents[1]


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


def test_a_file_that_arrives_while_we_write_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with pytest.raises(OutputExists), atomic_write(path, overwrite=False) as temporary:
        temporary.write_text("ours")
        path.write_text("theirs")
    assert path.read_text() == "theirs" and len(list(tmp_path.iterdir())) == 1


def test_without_hard_links_it_still_does_not_replace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: Any) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", no_links)
    path = tmp_path / "a.json"
    with atomic_write(path, overwrite=False) as temporary:
        temporary.write_text("ours")
    with pytest.raises(OutputExists), atomic_write(tmp_path / "b.json", overwrite=False) as temporary:
        (tmp_path / "b.json").write_text("theirs")
    assert path.read_text() == "ours" and (tmp_path / "b.json").read_text() == "theirs"


def test_content_is_on_the_disk_before_the_name_and_the_name_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, real, replace = [], os.fsync, os.replace

    def sync(descriptor: int) -> None:
        calls.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        real(descriptor)

    def renamed(*names: Any) -> None:
        calls.append("name")
        replace(*names)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "replace", renamed)
    with atomic_write(tmp_path / "a.json") as temporary:
        temporary.write_text("{}")
    assert calls == ["file", "name", "folder"]


def test_an_error_of_the_disk_when_it_is_synced_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (tmp_path / "a.json").write_text("old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UnwritableOutput, match="free some space"), atomic_write(tmp_path / "a.json") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "a.json").read_text() == "old" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.skipif(storage.fcntl is None, reason="needs locks")
def test_what_a_killed_writer_left_goes_and_what_a_living_one_has_stays(tmp_path: Path) -> None:
    code = "import os, sys\nfrom scalewise.storage import atomic_write\n"
    code += "with atomic_write(sys.argv[1]) as t:\n    t.write_text('half')\n    os.kill(os.getpid(), 9)"
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    assert subprocess.run([sys.executable, "-c", code, tmp_path / "a.json"], env=environment).returncode == -9
    assert len(list(tmp_path.iterdir())) == 1
    with atomic_write(tmp_path / "other.json") as living:
        living.write_text("{}")
        with atomic_write(tmp_path / "other.json") as second:
            second.write_text("{}")
        assert living.exists()
    with atomic_write(tmp_path / "a.json") as temporary:
        temporary.write_text("{}")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "other.json"]


def test_an_arrival_is_told_with_the_stamp_that_the_file_will_have(tmp_path: Path) -> None:
    seen: list[tuple[Path, Any, bool]] = []
    path = tmp_path / "a.json"
    with (
        on_arrival(lambda name, arriving: seen.append((name, arriving, path.exists()))),
        atomic_write(path) as temporary,
    ):
        temporary.write_text("{}")
    assert seen == [(path, stamp(path), False)]


def a_link(path: Path) -> None:
    path.with_name("mine").write_text('{"a": 1}\n')
    path.symlink_to(path.with_name("mine"))


@pytest.mark.skipif(os.name != "posix", reason="pipes and links")
@pytest.mark.parametrize("make", [a_link, Path.mkdir, os.mkfifo])
def test_only_plain_files_hold_lines_and_locks(tmp_path: Path, make: Callable[[Path], Any]) -> None:
    path = tmp_path / "lines"
    make(path)
    for use in (lambda: append_line(path, {}), lambda: read_lines(path), lambda: locked(path, "").__enter__()):
        with pytest.raises(UnwritableOutput, match="has to be a plain file") as caught:
            use()
        assert "\n" not in str(caught.value)
    assert not path.is_symlink() or path.read_text() == '{"a": 1}\n'


def test_lines_that_cannot_be_read_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_bytes(b'{"a": 1}\nnull\n[1]\n' + b"[" * 200_000 + b'\n{"b": ' + b"9" * 9000 + b'}\n\xff\n{"c"')
    append_line(path, {"d": 4})
    assert read_lines(path) == [{"a": 1}, {"d": 4}]


@pytest.mark.skipif(storage.fcntl is None, reason="needs locks")
def test_a_lock_is_exclusive_also_while_its_folder_is_removed(tmp_path: Path) -> None:
    """Several threads take it, and let go of it by removing the file and its folder."""
    folder, holders, errors = tmp_path / "job", [], []

    def work(seed: int) -> None:
        chance, held = random.Random(seed), 0
        while held < 50:
            try:
                with suppress(FileExistsError):
                    folder.mkdir()
                with locked(folder / "lock", "held"):
                    holders.append(seed)
                    if len(holders) > 1:
                        errors.append(tuple(holders))
                    held += 1
                    holders.remove(seed)  # to remove the lock is the last thing that a holder does
                    if chance.random() < 0.7:
                        (folder / "lock").unlink()
                        if chance.random() < 0.7:
                            with suppress(OSError):  # another has made its lock in it
                                folder.rmdir()
            except (UnwritableOutput, FileNotFoundError):
                continue

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
