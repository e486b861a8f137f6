"""`scalewise app`: each limit of the command line is the one of that name."""

from __future__ import annotations

from typing import Any

import pytest
from typer.testing import CliRunner

from scalewise.cli import app

pytest.importorskip("fastapi", reason="the page needs the extra `app`")


def test_limits_are_those_that_were_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr("scalewise.app.serving.serve", lambda host, port, limits, **named: asked.append(limits))
    command = ["app", "--max-pixels", "3", "--max-size", "2", "--max-clip", "40", "--queue", "5", "--seconds", "70"]
    assert CliRunner().invoke(app, command).exit_code == 0
    limits = asked[0]
    assert (limits.max_pixels, limits.max_bytes, limits.clip_seconds) == (3_000_000, 2 << 20, 40)
    assert (limits.queue, limits.seconds) == (5, 70)
