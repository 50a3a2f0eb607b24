"""Modules of JavaScript put together as one script, and style sheets as one: a page asks for one file of
each.

Nothing is needed for that but this. Of the language it knows what our modules use: `import { a, b } from
"./x.js";` and `export` before a function, a class or a const, each at the begin of a line. What else would be
imported or exported is refused, so no module can mean something else here than by itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter
from typing import Final

_IMPORT: Final = re.compile(r'^import \{ (\w+(?:, \w+)*) \} from "\./(\w+)\.js";$', re.MULTILINE)
_EXPORT: Final = re.compile(r"^export ((?:async )?(?:function|class|const) (\w+))", re.MULTILINE)
_UNKNOWN: Final = re.compile(r"^(?:import|export|await)\b.*|\bimport ?\(.*", re.MULTILINE)
_STYLES: Final = re.compile(r'^@import "([^"]+)";$', re.MULTILINE)


def join_modules(main: str, modules: Mapping[str, str]) -> str:
    """One module that does what `main` does with all that it imports. `modules` are the texts, each by its
    name without `.js`. Each stays a scope of its own and is run once, after those that it imports. Raises
    ValueError for what cannot be put together."""
    imported: dict[str, set[str]] = {}
    exported: dict[str, list[str]] = {}
    wanted = {main}
    while wanted:
        name = wanted.pop()
        if name not in modules:
            raise ValueError(f"there is no module {name}.js")
        exported[name] = [found for _, found in _EXPORT.findall(modules[name])]
        imported[name] = {found for _, found in _IMPORT.findall(modules[name])}
        wanted |= imported[name] - imported.keys()
    try:
        order = list(TopologicalSorter(imported).static_order())
    except CycleError as error:
        raise ValueError(f"modules import one another in a circle: {' '.join(error.args[1])}") from None
    return "".join(_wrap(name, modules[name], exported) for name in order)


def _wrap(name: str, text: str, exported: Mapping[str, list[str]]) -> str:
    for names, other in _IMPORT.findall(text):
        for lacking in set(names.split(", ")).difference(exported[other]):
            raise ValueError(f"{name}.js imports {lacking}, and {other}.js does not export it")
    text = _EXPORT.sub(r"\1", _IMPORT.sub(r"const { \1 } = $\2;", text))
    unknown = _UNKNOWN.search(text)
    if unknown is not None:
        raise ValueError(f"{name}.js has what cannot be put into one script: {unknown[0]}")
    return f"const ${name} = (() => {{\n{text}\nreturn {{ {', '.join(exported[name])} }};\n}})();\n"


def join_styles(main: str, sheets: Mapping[str, str]) -> str:
    """The text of a sheet with those that it imports in their places, each by its file's name."""
    return _STYLES.sub(lambda found: sheets[found[1]], sheets[main])
