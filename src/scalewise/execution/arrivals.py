"""Files of a run without a checkpoint that were about to get their names: a run killed between its picture and its
report is completed by the same command.

They are written down in the folder that a checkpoint would have (`checkpoint.py`), in one sealed record with what was
asked for, `arrivals.json`, just before the first file gets its name. The folder goes when all files have theirs.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from scalewise.execution.checkpoint import exists, folder_of, held, remove
from scalewise.execution.checkpoint_records import ARRIVALS, UNUSABLE, check_seal, read_content, sealed, stamps_of
from scalewise.storage import Stamp, is_plain, stamp, write_bytes


class Arrivals:
    """Which files belong to a run. `with Arrivals.of(output, request) as arrivals`."""

    def __init__(self, output: Path, request: Callable[[], Mapping[str, Any]], stack: ExitStack) -> None:
        self.output, self.folder = output, folder_of(output)
        self._request, self._stack = request, stack
        self._held = False
        self._known: dict[str, Stamp] = {}
        if exists(output):
            self._hold()
            self._known = self._read()

    @classmethod
    @contextmanager
    def of(cls, output: Path, request: Callable[[], Mapping[str, Any]]) -> Iterator[Arrivals]:
        """For one run. `request` gives what makes its pixels, as JSON; it is asked only if it is needed. What an
        earlier run left goes when the block has ended well.

        Raises UnwritableOutput if that run still goes on.
        """
        with ExitStack() as stack:
            arrivals = cls(output, request, stack)
            yield arrivals
            if arrivals._held:
                remove(arrivals.folder)

    def arriving(self, path: Path, arriving: Stamp) -> None:
        """For `storage.on_arrival`: a file of this run is about to get its name."""
        if path.parent == self.folder:
            return
        self._hold()
        self._known[os.path.abspath(path)] = arriving
        record = sealed({"request": dict(self._request()), "files": self._known})
        write_bytes(self.folder / ARRIVALS, json.dumps(record).encode())

    def owns(self, path: Path) -> bool:
        """True if the file at `path` was made by this run, which was killed before its end, and not touched since."""
        return is_plain(path) and self._known.get(os.path.abspath(path), ()) == stamp(path)

    def _hold(self) -> None:
        if not self._held:
            self._stack.enter_context(held(self.output))
            self._held = True

    def _read(self) -> dict[str, Stamp]:
        """What a killed run with this request wrote; nothing if there is none, or the record is damaged."""
        try:
            record = json.loads(read_content(self.folder / ARRIVALS))
            check_seal(record)
            return stamps_of(record["files"]) if record["request"] == self._request() else {}
        except UNUSABLE:
            return {}
