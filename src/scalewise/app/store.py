"""Where visitors' files lie: one folder a server below one folder a user, names that cannot be guessed, and a lock by
which the next server knows what a killed one left behind."""

from __future__ import annotations

import os
import secrets
import shutil
import stat
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # Windows removes nothing that is open, which is lock enough
    fcntl = None

from scalewise.app.problems import Refused

LOCK = "lock"


@dataclass
class Held:
    """A file or job of one visitor, in a folder of its own; `touched` is when somebody last asked for it."""

    id: str
    owner: str
    folder: Path
    created: float = field(default_factory=time.time)
    touched: float = field(default_factory=time.monotonic)

    def touch(self) -> None:
        self.touched = time.monotonic()

    def bytes(self) -> int:
        """On the disk."""
        total = 0
        for folder, _, names in os.walk(self.folder):
            for name in names:
                with suppress(OSError):  # it may be removed at this moment
                    total += os.lstat(os.path.join(folder, name)).st_size
        return total


class Store:
    """The folder of one server. `close` removes it; a server that was killed leaves it to the next one."""

    def __init__(self, parent: Path | None = None) -> None:
        self.parent = parent or own_folder()
        self.parent.mkdir(mode=0o700, exist_ok=True)
        sweep(self.parent)
        # Nobody may take a folder for a leftover before it is locked: it gets its final name when it is.
        made = Path(tempfile.mkdtemp(prefix="new-", dir=self.parent))
        self._lock: IO[bytes] = (made / LOCK).open("wb")
        if fcntl is not None:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self.root = self.parent / f"server-{secrets.token_urlsafe(12)}"
        made.rename(self.root)

    def folder(self, id: str) -> Path:
        made = self.root / id
        made.mkdir(mode=0o700)
        return made

    def close(self) -> None:
        shutil.rmtree(self.root, ignore_errors=True)
        self._lock.close()
        with suppress(OSError):  # another server is in there
            self.parent.rmdir()


def new_id() -> str:
    """192 bits: an id is known to those who were told it."""
    return secrets.token_urlsafe(24)


def own_folder() -> Path:
    """A folder of this user alone, below the system's folder for temporary files."""
    user = os.getuid() if hasattr(os, "getuid") else "user"
    path = Path(tempfile.gettempdir()) / f"scalewise-app-{user}"
    with suppress(FileExistsError):
        path.mkdir(mode=0o700)
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode) or (hasattr(os, "getuid") and status.st_uid != os.getuid()):
        raise Refused(500, f"{path.name} in the folder for temporary files is not ours: remove it, or set TMPDIR")
    path.chmod(0o700)
    return path


def sweep(parent: Path) -> list[str]:
    """Remove what killed servers left: folders whose lock nobody holds. Their names."""
    removed = []
    for folder in parent.glob("server-*"):
        if folder.is_symlink() or not folder.is_dir() or fcntl is None:
            continue
        try:
            with (folder / LOCK).open("rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except FileNotFoundError:
            pass
        except OSError:
            continue  # its server runs
        shutil.rmtree(folder, ignore_errors=True)
        removed.append(folder.name)
    return removed


__all__ = ["Held", "Store", "new_id", "own_folder", "sweep"]
