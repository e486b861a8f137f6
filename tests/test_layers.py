"""Who may import whom: the imports of every module, read from its text, against the table of docs/architecture.md."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "scalewise"

GROUND = {"errors", "version", "geometry", "storage", "budget"}
NETWORK = GROUND | {"contracts", "layers"}
MODEL = NETWORK | {"routing", "models", "machine"}
FILLERS = MODEL | {"encoders", "upsamplers", "multiexit"}
RUNNING = MODEL | {"images", "execution", "batch"}
TOP = (
    FILLERS | RUNNING | {"checkpoints", "zoo", "pipeline", "video", "data", "training", "export", "recipes", "evaluate"}
)

# A room (a folder, or a module beside them) → the rooms that it may import. A new room needs a line here.
MAY_IMPORT = (
    dict.fromkeys(GROUND, GROUND)
    | {"images": GROUND, "contracts": GROUND, "layers": NETWORK}
    | {"batch": GROUND | {"images"}, "data": GROUND | {"images"}}
    | {"routing": NETWORK, "models": NETWORK | {"routing"}, "machine": MODEL}  # contracts, not the fillers
    | {"encoders": NETWORK | {"routing"}, "upsamplers": NETWORK | {"routing"}}  # never each other
    | {"multiexit": NETWORK | {"routing", "encoders", "upsamplers"}}
    | {"execution": RUNNING - {"batch"}}
    | {"export": FILLERS, "checkpoints": FILLERS, "training": FILLERS | {"data"}}
    | {"compat": FILLERS | {"checkpoints"}, "foreign": MODEL | {"checkpoints"}}
    | {"zoo": FILLERS | {"checkpoints", "compat", "foreign"}}  # nothing else imports these two
    | {"recipes": FILLERS | {"data", "training", "checkpoints"}}
    | {"pipeline": RUNNING | {"zoo"}}
    # beside batch; a model by its name, and the output size, are the pipeline's
    | {"video": RUNNING - {"batch"} | {"zoo", "pipeline"}}
    | {"evaluate": TOP, "app": TOP, "cli": TOP | {"app", "__init__", "foreign"}}
    | {
        "__init__": {"version", "errors", "budget", "machine", "zoo", "pipeline"},
        "__main__": {"cli"},
    }  # lazily
)
# What a room may name for the type checker alone: there is one network with our exits, and one that APE makes.
TYPES_ONLY = {"models": {"multiexit"}}
LONGEST_FILE = 400  # lines
# Import names whose distribution is called otherwise; pyiqa is used if the user has it, and is in no extra.
DISTRIBUTION = {
    "PIL": "pillow",
    "python_multipart": "python-multipart",
    "h11": "uvicorn",  # what uvicorn and FastAPI are built on comes with them
    "pydantic": "fastapi",
    "starlette": "fastapi",
}
OPTIONAL = {"pyiqa"}


def part(module: Path) -> str:
    return module.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(module: Path, *, types: bool = False) -> Iterator[str]:
    """Absolute names that a module imports, in functions too; with `types` also what only a type checker reads."""
    package = ("scalewise", *module.relative_to(PACKAGE).parent.parts)
    pending: list[ast.AST] = [ast.parse(module.read_text())]
    while pending:
        node = pending.pop()
        if not types and isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            pending.extend(node.orelse)
            continue
        pending.extend(ast.iter_child_nodes(node))
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else ()
            source = ".".join((*start, *([node.module] if node.module else [])))
            yield from (f"{source}.{name.name}" for name in node.names)


def imported_parts(module: Path, *, types: bool) -> Iterator[str]:
    for name in imports(module, types=types):
        if re.match(r"scalewise(\.|$)", name):
            child = name.partition(".")[2].partition(".")[0]
            known = child in MAY_IMPORT or (PACKAGE / child).is_dir() or (PACKAGE / f"{child}.py").exists()
            yield child if child and known else "__init__"


MODULES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("module", MODULES, ids=lambda module: str(module.relative_to(PACKAGE)))
def test_imports_point_downwards(module: Path) -> None:
    own = part(module)
    assert own in MAY_IMPORT, f"{own} has no line in the table: say what it may import"
    upward = set(imported_parts(module, types=False)) - MAY_IMPORT[own] - {own}
    upward |= set(imported_parts(module, types=True)) - MAY_IMPORT[own] - TYPES_ONLY.get(own, set()) - {own}
    assert not upward, f"{module.relative_to(ROOT)} may not import {', '.join(sorted(upward))}"


def test_every_room_of_the_table_exists() -> None:
    assert set(MAY_IMPORT) == {part(module) for module in MODULES}


@pytest.mark.parametrize("module", MODULES, ids=lambda module: str(module.relative_to(PACKAGE)))
def test_a_file_is_read_in_one_sitting(module: Path) -> None:
    count = len(module.read_text(encoding="utf-8").splitlines())
    assert count <= LONGEST_FILE, f"{module.relative_to(ROOT)} has {count} lines: split it by what its parts are for"


def home(name: str) -> Path | None:
    """The file that an absolute name of ours is in: its own module, or the one that it is taken from."""
    package, *parts = name.split(".")
    for count in range(len(parts), -1, -1) if package == "scalewise" else ():
        place = PACKAGE.joinpath(*parts[:count])
        if (file := place.with_suffix(".py")).is_file() or (file := place / "__init__.py").is_file():
            return file
    return None


def test_no_files_import_each_other_in_a_circle() -> None:
    needs = {module: {home(name) for name in imports(module, types=True)} - {None, module} for module in MODULES}
    while done := {module for module, others in needs.items() if not others & needs.keys()}:
        needs = {module: others for module, others in needs.items() if module not in done}
    while outside := needs.keys() - {other for others in needs.values() for other in others}:  # they are in none
        needs = {module: others for module, others in needs.items() if module not in outside}
    assert not needs, f"in circles: {', '.join(sorted(str(module.relative_to(PACKAGE)) for module in needs))}"


def test_every_foreign_import_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [line for lines in project["optional-dependencies"].values() for line in lines]
    declared = {re.split(r"[\[<>=!~; ]", line)[0] for line in project["dependencies"] + extras}
    foreign = {name.split(".")[0] for module in MODULES for name in imports(module)}
    foreign -= {"scalewise", *OPTIONAL, *sys.stdlib_module_names}
    assert {DISTRIBUTION.get(name, name) for name in foreign} <= declared
