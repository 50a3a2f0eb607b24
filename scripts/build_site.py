"""Build the documents as a site, strictly: scripts/build_site.py [DIRECTORY, else site]

Every link and every anchor has to lead somewhere, and every page has to be in the navigation of mkdocs.yml;
else it fails and says which. The reference of HTTP is written from the OpenAPI document of the app.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from orchestrator.api import ApiContext, create_app
from orchestrator.api.openapi.document import document

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("*.md", "LICENSE", "docs/**/*", "examples/**/*", "deploy/**/*")
"""What documents are, and lead to."""
REFERENCE = "docs/http-reference.md"


def main(arguments: list[str]) -> int:
    if len(arguments) > 1 or arguments[:1] in (["-h"], ["--help"]):
        print(__doc__, file=sys.stderr)
        return 2
    into = Path(arguments[0] if arguments else ROOT / "site").absolute()
    with tempfile.TemporaryDirectory(prefix="orchestrator-site-") as name:
        stage(Path(name))
        return build(Path(name), into)


def build(staged: Path, into: Path) -> int:
    """What mkdocs ends with: 0 if all is well."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(into)]
    return subprocess.run(command, cwd=staged, check=False).returncode


def stage(into: Path) -> None:
    """What mkdocs builds from."""
    (into / "pages").mkdir(parents=True)
    shutil.copy(ROOT / "mkdocs.yml", into)
    for pattern in PAGES:
        for path in ROOT.glob(pattern):
            if path.is_file() and "__pycache__" not in path.parts:
                target = into / "pages" / path.relative_to(ROOT)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, target)
    (into / "pages" / REFERENCE).write_text(reference(openapi()), encoding="utf-8")


def openapi() -> dict[str, Any]:
    """The document of an app that serves nobody: of what routes do at work nothing is there."""
    unused: dict[str, Any] = {
        field.name: None
        for field in fields(ApiContext)
        if field.default is MISSING and field.default_factory is MISSING
    }
    return document(create_app(ApiContext(**(unused | {"services": {}}))), "", ())


def reference(told: Mapping[str, Any]) -> str:
    """The document as a page: each operation with who may, what it takes, and what it answers."""
    lines = [
        "# HTTP, every route",
        "",
        "Written from the OpenAPI document, which a server shows at `/swagger`.",
        "[HTTP, explained](api.md) says how they belong together.",
    ]
    for path, operations in sorted(
        told["paths"].items(), key=lambda item: (item[0].startswith("/v1"), item[0])
    ):
        for method, operation in operations.items():
            lines += ["", f"## {method.upper()} {path}", "", *_operation(operation)]
    lines += ["", "# Schemas", ""]
    for name, schema in sorted(told["components"]["schemas"].items()):
        lines += ["", f"## {name}", "", *_schema(schema)]
    return "\n".join(lines) + "\n"


def _operation(operation: Mapping[str, Any]) -> Iterator[str]:
    yield f"{operation['summary']}."
    yield ""
    yield f"For: {operation.get('x-roles', 'everybody')}."
    if parameters := operation.get("parameters"):
        yield from ("", "| parameter | in | type | meaning |", "| --- | --- | --- | --- |")
        for one in parameters:
            must = " (has to be given)" if one.get("required") and one["in"] != "path" else ""
            yield _row(f"`{one['name']}`", one["in"], _kind(one["schema"]), one.get("description", "") + must)
    for kind, body in operation.get("requestBody", {}).get("content", {}).items():
        yield from ("", f"Body: `{kind}`, {_kind(body.get('schema', {}))}", "")
        yield from _schema(body.get("schema", {}))
    yield from ("", "| answer | meaning | body |", "| --- | --- | --- |")
    for status, answer in sorted(operation["responses"].items()):
        bodies = (
            f"`{kind}`: {_kind(body.get('schema', {}))}" for kind, body in answer.get("content", {}).items()
        )
        yield _row(status, answer["description"], "; ".join(bodies))


def _schema(schema: Mapping[str, Any]) -> Iterator[str]:
    if "enum" in schema:
        yield _kind(schema)
    if properties := schema.get("properties"):
        must = schema.get("required", ())
        yield from ("", "| field | type | meaning |", "| --- | --- | --- |")
        for name, one in properties.items():
            yield _row(
                f"`{name}`", _kind(one), one.get("description", "") + ("" if name in must else " (may lack)")
            )


def _kind(schema: Mapping[str, Any]) -> str:
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    for several in ("anyOf", "oneOf"):
        if several in schema:
            return " or ".join(dict.fromkeys(_kind(one) for one in schema[several]))
    kind = schema.get("type", "anything")
    if kind == "array":
        return f"list of {_kind(schema.get('items', {}))}"
    kind = " or ".join(kind) if isinstance(kind, list) else kind
    format = schema.get("format")
    return f"{kind} ({format})" if format else kind


def _row(*cells: str) -> str:
    shown = (" ".join(cell.split()).replace("|", r"\|") for cell in cells)
    return f"| {' | '.join(shown)} |"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
