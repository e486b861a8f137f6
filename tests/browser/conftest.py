"""What browser tests share: Chromium, and axe, which finds what some people cannot use. `make test-browser` installs
them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

QUIET = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
         "--disable-sync", "--no-first-run")  # fmt: skip


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright  # pyright: ignore[reportMissingImports]

    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("no chromium: make test-browser installs it")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=program, args=list(QUIET))
        yield opened
        opened.close()


@pytest.fixture
def accessible() -> Callable[[Any, str], None]:
    """`accessible(page, where)` fails for what axe calls serious or critical. AXE names axe.min.js."""
    if not os.environ.get("AXE"):
        pytest.skip("AXE names axe.min.js: make test-browser")
    code = Path(os.environ["AXE"]).read_text(encoding="utf-8")

    def check(page: Any, where: str) -> None:
        found = page.context.new_cdp_session(page)  # the page's policy lets no script in
        found.send("Runtime.evaluate", {"expression": code})
        asked = {"expression": "axe.run().then((found) => JSON.stringify(found.violations))", "awaitPromise": True}
        violations = json.loads(found.send("Runtime.evaluate", asked)["result"]["value"])
        serious = [one for one in violations if one["impact"] in ("serious", "critical")]
        told = [(one["id"], node["html"][:200], node["failureSummary"]) for one in serious for node in one["nodes"]]
        assert not told, (where, told)
        print(f"{where}: {len(violations)} minor")

    return check
