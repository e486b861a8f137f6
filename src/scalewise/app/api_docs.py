"""docs/api.md from the server's own description: `python -m scalewise.app.api_docs docs/api.md` writes it again.

What stands above the mark is written by hand, examples included; what is below comes from /openapi.json.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from scalewise.app.http import build

MARK = "<!-- below: python -m scalewise.app.api_docs docs/api.md -->\n"


def description() -> dict[str, Any]:
    """/openapi.json, without a server that listens."""
    with tempfile.TemporaryDirectory() as folder:
        app = build(parent=Path(folder) / "store")
        try:
            return app.openapi()
        finally:
            app.state.server.worker.close()


def reference(told: dict[str, Any]) -> str:
    """The routes by their tags, in Markdown."""
    schemas = told["components"]["schemas"]
    groups: dict[str, list[str]] = {}
    for path, methods in told["paths"].items():
        for method, operation in methods.items():
            part = [f"### `{method.upper()} {path}`\n", _words(operation)]
            part += _table("field", _fields(operation, schemas))
            part += [_answers(operation)]
            groups.setdefault(operation["tags"][0], []).append("\n".join(part))
    sections = [f"## {tag[:1].upper()}{tag[1:]}\n\n" + "\n\n".join(parts) for tag, parts in groups.items()]
    models = ["## What the answers hold\n"]
    for name in ("JobAbout", "PictureAbout", "ForecastAbout", "ClipAbout", "Problem"):
        rows = [_row(field, schema, schemas[name]) for field, schema in schemas[name]["properties"].items()]
        models += [f"### {name}\n", *_table("field", rows)]
    return "\n\n".join(sections) + "\n\n" + "\n".join(models).rstrip() + "\n"


def _words(operation: dict[str, Any]) -> str:
    text = " ".join(operation.get("description", "").split())
    return f"{operation['summary']}. {text}".strip() + "\n"


def _fields(operation: dict[str, Any], schemas: dict[str, Any]) -> list[list[str]]:
    rows = []
    for one in operation.get("parameters", ()):
        if one["in"] == "path":  # an id, which needs no words
            continue
        schema = one["schema"] | {"description": one.get("description", one["schema"].get("description", ""))}
        rows.append(_row(one["name"], schema, {"required": [one["name"]] if one.get("required") else []}))
    for body in operation.get("requestBody", {}).get("content", {}).values():
        schema = schemas[body["schema"]["$ref"].rpartition("/")[2]]
        rows += [_row(name, one, schema) for name, one in schema["properties"].items()]
    return rows


def _row(name: str, schema: dict[str, Any], within: dict[str, Any]) -> list[str]:
    one = next((option for option in schema.get("anyOf", ()) if option.get("type") != "null"), schema)
    kind = one.get("type", one.get("$ref", "").rpartition("/")[2])
    if one.get("format") == "binary" or "contentMediaType" in one:
        kind = "file"
    usual = "required" if name in within.get("required", ()) else schema.get("default")
    usual = "" if usual is None else str(usual).lower() if isinstance(usual, bool) else str(usual)
    return [f"`{name}`", kind, usual, schema.get("description", "")]


def _table(first: str, rows: list[list[str]]) -> list[str]:
    if not rows:
        return []
    lines = [f"| {first} | kind | default | meaning |", "|---|---|---|---|"]
    return [*lines, *("| " + " | ".join(row) + " |" for row in rows), ""]


def _answers(operation: dict[str, Any]) -> str:
    told = []
    for status, answer in operation["responses"].items():
        words = answer["description"]
        for kind, content in answer.get("content", {}).items():
            name = content.get("schema", {}).get("$ref", "").rpartition("/")[2]
            if status[0] == "2":
                words = f"{name} (`{kind}`)" if name else f"`{kind}`"
        told.append(f"{status} {words}")
    return "Answers: " + ", ".join(told) + "."


def main() -> None:
    path = Path(sys.argv[1])
    by_hand = path.read_text(encoding="utf-8").partition(MARK)[0]
    path.write_text(by_hand + MARK + "\n" + reference(description()), encoding="utf-8")


if __name__ == "__main__":
    main()
