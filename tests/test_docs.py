"""The documentation: its links lead somewhere, and the reference holds every public name."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import scalewise

ROOT = Path(__file__).resolve().parent.parent
# Code and comments are not links.
NOT_TEXT = re.compile(r"<!--.*?-->|^```.*?^```|`[^`\n]*`", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(\s*<?([^)\s>]+)[^)]*\)|(?:src|href)=\"([^\"]+)\"")
PAGES = sorted(ROOT.glob("*.md")) + sorted((ROOT / "docs").rglob("*.md"))


def anchors(page: Path) -> set[str]:
    """What GitHub names the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


def rooms_of_the_tree() -> dict[str, set[str]]:
    """The tree of docs/architecture.md: a folder of the package ("" for itself) → the words of its part."""
    page = (ROOT / "docs" / "architecture.md").read_text()
    tree = page.split("src/scalewise/\n", 1)[1].split("```", 1)[0]
    rooms: dict[str, set[str]] = {"": set()}
    path: list[str] = []
    for line in tree.splitlines():
        entry = re.match(r"(?P<indent>(?:│ {3})*)[├└]── (?P<name>\S+)", line)
        if entry:
            depth = len(entry["indent"]) // 4
            path = path[:depth]
            if entry["name"].endswith("/"):
                path.append(entry["name"].rstrip("/"))
        rooms.setdefault("/".join(path), set()).update(re.findall(r"\w+", line))
    return rooms


def test_the_tree_of_the_architecture_names_every_file() -> None:
    package, rooms = ROOT / "src" / "scalewise", rooms_of_the_tree()
    files = [path.relative_to(package) for path in package.rglob("*.py")]
    missing = [
        str(file)
        for file in files
        if file.stem not in rooms.get("" if file.parent == Path() else file.parent.as_posix(), set())
        and (file.name != "__init__.py" or file.parent == Path())
    ]
    assert not missing, "docs/architecture.md shows every file of src/scalewise, with a caption"


def test_the_tree_of_the_architecture_names_no_file_that_is_gone() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    tree = page.split("src/scalewise/\n", 1)[1].split("```", 1)[0]
    names = {path.name for path in (ROOT / "src" / "scalewise").rglob("*.py")}
    assert set(re.findall(r"\w+\.py", tree)) <= names


class Page(HTMLParser):
    """The anchors and the links of one page of the site."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: set[str] = set()
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for key, value in attrs:
            if key in ("id", "name") and value:
                self.anchors.add(value)
            if key in ("href", "src") and value and not re.match(r"[a-z]+:|//", value):
                self.links.add(value)


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, Page]:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {path: Page(path) for path in folder.rglob("*.html") if path.name != "404.html"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_files_resolve(page: Path) -> None:
    text = NOT_TEXT.sub("", page.read_text())
    targets = {first or second for first, second in LINK.findall(text)}
    broken = []
    for target in sorted(target for target in targets if not re.match(r"[a-z]+:", target)):
        path, _, anchor = target.partition("#")
        file = page.parent / unquote(path) if path else page
        if not file.exists() or (anchor and file.suffix == ".md" and anchor not in anchors(file)):
            broken.append(target)
    assert not broken


def test_links_within_the_site_resolve(site: dict[Path, Page]) -> None:
    broken = []
    for path, page in site.items():
        for link in page.links:
            address = urlsplit(link)
            target = (path.parent / unquote(address.path)).resolve() if address.path else path
            target = target / "index.html" if target.is_dir() else target
            anchor = unquote(address.fragment)
            if not target.exists() or (anchor and target in site and anchor not in site[target].anchors):
                broken.append(f"{path.name}: {link}")
    assert not broken, "pages of docs/ link to pages of docs/ or to full addresses"


def test_every_public_name_is_in_the_reference(site: dict[Path, Page]) -> None:
    page = next(page for path, page in site.items() if path.name == "reference.html")
    listed = {link.rpartition(".")[2] for link in page.links}
    assert set(scalewise.__all__) - {"__version__"} <= listed
