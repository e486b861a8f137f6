"""Files that are whole or not there: atomic writes, locks, lines of JSON, and the user's cache folder."""

from __future__ import annotations

import errno
import json
import os
import secrets
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from scalewise.errors import UnwritableOutput

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def atomic_write(path: str | os.PathLike[str], *, overwrite: bool = True, within: Path | None = None) -> Iterator[Path]:
    """Yield a temporary path in the same folder; it becomes `path` when the block ends well, and goes when it does not.

    `within`: a folder of the same disk to put it in instead, where what a killed process leaves is found again.

    with atomic_write("report.json") as temporary:
        temporary.write_text(text)
    """
    path = Path(path)
    check_writable(path, overwrite=overwrite)
    # A name of its own length, as `path` may already have the longest name allowed; hidden, so a folder job skips it.
    temporary = (within or path.parent) / f".{secrets.token_hex(8)}.part"
    try:
        # Not mkstemp, whose files nobody else may read: the result gets the usual permissions.
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    except OSError as error:
        raise UnwritableOutput(f"cannot write in folder {str(path.parent)!r}: {error.strerror}") from error
    try:
        try:
            yield temporary
        except OSError as error:
            if error.errno not in FULL:
                raise
            raise UnwritableOutput(f"could not write {str(path)!r}: {error.strerror}; free some space") from error
        if not overwrite and os.path.lexists(path):  # it came while we were writing
            raise UnwritableOutput(exists_message(path))
        try:
            os.replace(temporary, path)
        except OSError as error:
            raise UnwritableOutput(f"could not write {str(path)!r}: {error.strerror}") from error
    finally:
        temporary.unlink(missing_ok=True)


def check_writable(path: Path, *, overwrite: bool) -> None:
    """Raise `UnwritableOutput` if a file could not be put at `path`: asked before hours of work, not after."""
    try:
        if path.is_dir():
            raise UnwritableOutput(f"{str(path)!r} is a folder; name a file in it")
        if not path.parent.is_dir():
            raise UnwritableOutput(f"folder {str(path.parent)!r} does not exist; make it first")
        if not overwrite and os.path.lexists(path):
            raise UnwritableOutput(exists_message(path))
        os.stat(path.parent / path.name)  # also finds names that are too long
    except FileNotFoundError:
        pass
    except OSError as error:
        raise UnwritableOutput(f"cannot write {str(path)!r}: {error.strerror}") from error
    except ValueError as error:  # a NUL character
        raise UnwritableOutput(f"cannot write {str(path)!r}: {error}") from error
    try:
        # Trying is the only honest test: permission bits do not know of read-only disks.
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise UnwritableOutput(f"cannot write in folder {str(path.parent)!r}: {error.strerror}") from error


def exists_message(path: Path) -> str:
    return f"{str(path)!r} exists; allow overwriting or choose another name"


def stamp(path: Path) -> list[int] | None:
    """Size and date of a file; None if it is not there."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return [status.st_size, status.st_mtime_ns]


def append_line(path: Path, value: Mapping[str, Any]) -> None:
    """Add a line of JSON that is on the disk when this returns. Raises UnwritableOutput."""
    text = json.dumps(value) + "\n"
    try:
        with path.open("ab") as file:
            if file.tell() and not _ends_a_line(path):
                text = "\n" + text  # the last run was killed while it wrote
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise UnwritableOutput(f"could not write {str(path)!r}: {error.strerror}") from error


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of such a file; none if it is not there, and without lines that were cut off."""
    found: list[dict[str, Any]] = []
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return found
    except OSError as error:
        raise UnwritableOutput(f"cannot read {str(path)!r}: {error.strerror}") from error
    for line in content.splitlines():
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            found.append(value)
    return found


def _ends_a_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


@contextmanager
def locked(path: Path, message: str) -> Iterator[None]:
    """Hold `path`, which is made, against other processes. Raises UnwritableOutput with `message`."""
    try:
        with path.open("ab") as file:
            if fcntl is not None:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    raise UnwritableOutput(message) from None
                except OSError:  # a network disk without locks
                    pass
            yield
    except PermissionError as error:
        raise UnwritableOutput(f"cannot write {str(path)!r}: {error.strerror}") from error


def cache_folder() -> Path:
    """The user's cache folder for scalewise."""
    if given := os.environ.get("XDG_CACHE_HOME"):
        return Path(given) / "scalewise"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "scalewise" / "Cache"
    return Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache") / "scalewise"
