"""Writes the reference pages from the package itself, so that no public name and no module can be forgotten."""

from __future__ import annotations

import inspect
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

SOURCE = Path(__file__).resolve().parent.parent / "src"
PUBLIC = "<!-- every public name -->"


def public_names() -> str:
    """A table: each name, linked to the module that defines it (the package itself only forwards), and what it is."""
    sys.path.insert(0, str(SOURCE))
    import scalewise

    rows = ["| name | what it is |", "|---|---|"]
    for name in sorted(set(scalewise.__all__) - {"__version__"}, key=str.lower):
        value = getattr(scalewise, name)
        documented = inspect.isclass(value) or inspect.isfunction(value)  # an alias or a table has its type's text
        module = value.__module__ if documented else home(name)
        summary = (inspect.getdoc(value) or "").split("\n\n")[0] if documented else ""
        summary = " ".join(summary.split()).replace("|", "\\|")
        page = module.split(".")[1]
        rows.append(f"| [`{name}`](modules/{page}.md#{module}.{name}) | {summary} |")
    return "\n".join(rows)


def home(name: str) -> str:
    """The module that assigns a name which is neither class nor function."""
    for path in sorted(SOURCE.rglob("*.py")):
        lines = path.read_text().splitlines()
        if module_name(path) != "scalewise" and any(line.startswith((f"{name} =", f"{name}:")) for line in lines):
            return module_name(path)
    raise LookupError(f"scalewise.{name} is assigned in no module")


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """One page for each module or folder of the package."""
    pages: dict[str, list[str]] = defaultdict(list)
    for path in sorted(SOURCE.rglob("*.py")):
        name = module_name(path)
        if name not in ("scalewise", "scalewise.__main__"):
            pages[name.split(".")[1]].append(f"::: {name}\n")
    for part, entries in pages.items():
        files.append(File.generated(config, f"modules/{part}.md", content=f"# {part}\n\n" + "\n".join(entries)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    return markdown.replace(PUBLIC, public_names()) if PUBLIC in markdown else markdown
