"""Many pictures on many cores or machines: a pool of Ray actors, each with its own model, and Ray Data between them.

Ray decides what runs where and starts a lost actor again; it is handed small rows only, never pixels: actors read and
write the files themselves, so all machines must see them under the same names.
"""

from __future__ import annotations

import logging
import os
import pickle
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from scalewise.errors import InvalidRequest, MissingDependency, ScalewiseError

Work = Callable[[Any], Any]

CPUS_PER_ACTOR = 4  # the networks gain little from more
MAX_BLOCKS = 4096  # blocks of rows that Ray hands out; each holds one task, or more where there are more
STORE_BYTES = 100 * 2**20  # Ray's store on a machine of its own: only rows pass through it


@dataclass(frozen=True)
class Outcome:
    """What came of a task: `value`, or why there is none. `expected` errors are ours, others hold a traceback."""

    index: int
    value: Any = None
    error: str | None = None
    expected: bool = True
    worker: int = 0  # process id


def spread(
    tasks: Sequence[Any],
    make: Callable[[], Work],
    *,
    address: str | None = None,
    cpus: int | None = None,
    actors: int | None = None,
) -> Iterator[Outcome]:
    """`make()` once in every actor, and what it gives on every task; outcomes as they come, one for each task.

    `address` of a cluster: `auto`, `ray://host:10001` or `host:6379`; without one Ray is started here and stopped at
    the end. `cpus` for each actor, and how many `actors`; by default as many as there is room for. An error stops its
    task only. When an actor is lost, its task is run again elsewhere, so a task must bear being run twice. Raises
    MissingDependency, InvalidRequest.
    """
    if not tasks:
        return
    ray = _ray()
    local = address is None
    _connect(ray, address, actors, cpus)
    try:
        room = ray.cluster_resources()
        each = cpus or max(1, min(CPUS_PER_ACTOR, int(room.get("CPU", 1)) // max(1, actors or 1)))
        gpus = 1 if room.get("GPU", 0) else 0
        most = actors or max(1, int(room["GPU"] if gpus else room.get("CPU", 1) // each))
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = context.print_on_execution_start = False
        context.execution_options.preserve_order = False
        rows = [{"index": index, "task": pickle.dumps(task)} for index, task in enumerate(tasks)]
        blocks = min(len(rows), MAX_BLOCKS)
        outcomes = ray.data.from_items(rows, override_num_blocks=blocks).map(
            _Actor,
            fn_constructor_args=(make,),
            compute=ray.data.ActorPoolStrategy(size=min(most, len(rows))),
            num_cpus=each,
            num_gpus=gpus,
        )
        for row in outcomes.iter_rows():
            yield pickle.loads(row["outcome"])
    finally:
        if local:
            ray.shutdown()


class _Actor:
    def __init__(self, make: Callable[[], Work]) -> None:
        self.work = make()

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        index, worker = row["index"], os.getpid()
        try:
            outcome = Outcome(index, self.work(pickle.loads(row["task"])), worker=worker)
        except ScalewiseError as error:
            outcome = Outcome(index, None, str(error), worker=worker)
        except Exception:  # one picture must not end the run of all others
            outcome = Outcome(index, None, traceback.format_exc(), False, worker)
        return {"outcome": pickle.dumps(outcome)}


def _ray() -> Any:
    try:
        import ray  # pyright: ignore[reportMissingImports]
        import ray.data  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise MissingDependency(
            "the engine ray needs Ray Data, which is not installed: pip install 'scalewise[ray]'"
        ) from None
    return ray


def _messages_to_stderr() -> None:
    """Ray reports lost workers on stdout, which is for results; no public option changes that."""
    with suppress(ImportError, AttributeError):
        from ray._private import worker  # pyright: ignore[reportMissingImports]

        show = worker.print_to_stdstream
        worker.print_to_stdstream = lambda data, **more: show(data | {"is_err": True}, **more)


def _connect(ray: Any, address: str | None, actors: int | None, cpus: int | None) -> None:
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    _messages_to_stderr()
    how: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "ignore_reinit_error": True}
    if address is None:
        how |= {"include_dashboard": False, "object_store_memory": STORE_BYTES}
        if actors is not None:
            how["num_cpus"] = actors * (cpus or 1)
    else:
        how["address"] = address
    try:
        ray.init(**how)
    except (ConnectionError, ValueError, RuntimeError, OSError) as error:
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise InvalidRequest(f"address {address}: no Ray cluster answers there: {reason}") from None
