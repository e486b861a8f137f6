"""The package runs where there is no POSIX, and its wheel is pure Python."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "scalewise"
MODULES = sorted(PACKAGE.rglob("*.py"))

POSIX_MODULES = {"fcntl", "grp", "posix", "pty", "pwd", "resource", "syslog", "termios", "tty"}
POSIX_NAMES = {
    "os": {
        "chown", "chroot", "fork", "forkpty", "getegid", "geteuid", "getgid", "getloadavg", "getpgid", "getpgrp",
        "getuid", "initgroups", "killpg", "mkfifo", "mknod", "nice", "openpty", "posix_fadvise", "posix_fallocate",
        "pread", "pwrite", "sched_getaffinity", "sched_setaffinity", "sendfile", "setsid", "statvfs", "sync", "sysconf",
        "uname", "wait", "waitpid",
    },
    "signal": {"SIGALRM", "SIGHUP", "SIGKILL", "SIGQUIT", "SIGUSR1", "SIGUSR2", "alarm", "pause", "setitimer"},
}  # fmt: skip


def posix_only(tree: ast.AST) -> list[str]:
    """Names that only POSIX has, outside of a branch or a try that asks first."""
    found: list[str] = []

    def visit(node: ast.AST, asked: bool) -> None:
        if isinstance(node, ast.If | ast.IfExp):
            test = ast.unparse(node.test)
            asked = asked or any(word in test for word in ("hasattr(", "sys.platform", "os.name", "getattr("))
        if isinstance(node, ast.Try):
            caught = " ".join(ast.unparse(handler.type) for handler in node.handlers if handler.type)
            asked = asked or "ImportError" in caught or "AttributeError" in caught
        if isinstance(node, ast.Import | ast.ImportFrom) and not asked:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            found.extend(name for name in names if name.split(".")[0] in POSIX_MODULES)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and not asked:
            name = node.value.id
            if node.attr in POSIX_NAMES.get(name, ()):
                found.append(f"{name}.{node.attr}")
        for child in ast.iter_child_nodes(node):
            visit(child, asked)

    visit(tree, False)
    return found


@pytest.mark.parametrize("module", MODULES, ids=lambda module: str(module.relative_to(PACKAGE)))
def test_no_call_needs_posix(module: Path) -> None:
    assert not posix_only(ast.parse(module.read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("import os\nos.fork()", ["os.fork"]),
        ("import fcntl", ["fcntl"]),
        ("import signal\nx = signal.SIGKILL", ["signal.SIGKILL"]),
        ("import os\nif hasattr(os, 'fork'):\n    os.fork()", []),
        ("try:\n    import fcntl\nexcept ImportError:\n    fcntl = None", []),
    ],
)
def test_the_search_finds_what_it_should(code: str, found: list[str]) -> None:
    assert posix_only(ast.parse(code)) == found


def test_the_wheel_is_pure_python() -> None:
    """No compiled file and no build hook, so hatchling tags it py3-none-any."""
    kinds = {path.suffix for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert not kinds & {".so", ".pyd", ".dylib", ".dll", ".c", ".cpp", ".cu", ".pyx"}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["build-system"] == {"requires": ["hatchling>=1.27"], "build-backend": "hatchling.build"}
    assert (
        "hooks" not in project["tool"]["hatch"]["build"]
        and "hooks" not in project["tool"]["hatch"]["build"]["targets"]["wheel"]
    )


def test_a_wheel_that_is_built_says_so(tmp_path: Path) -> None:
    pytest.importorskip("hatchling", reason="hatchling builds the wheel in its own environment, and is not in this one")
    from hatchling.builders.wheel import WheelBuilder  # pyright: ignore[reportMissingImports]

    (built,) = WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    assert built.endswith("-py3-none-any.whl")
