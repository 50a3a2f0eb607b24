"""Modules that are put together as one script (what that does in a page: tests/browser)."""

from __future__ import annotations

import pytest

from orchestrator.api.http.one_script import join_modules, join_styles

MODULES = {
    "main": 'import { one, two } from "./a.js";\nimport { Three } from "./b.js";\nlog(one, two, Three);',
    "a": "export const one = 1;\nexport function two() {}\nconst own = 0;\nlet four = `export`;",
    "b": 'import { one } from "./a.js";\nexport class Three {}\nexport async function five() {}',
    "left_out": "export const six = await 6;",
}


def test_each_module_is_a_scope_that_is_run_once_after_those_that_it_imports() -> None:
    assert join_modules("main", MODULES) == (
        "const $a = (() => {\n"
        "const one = 1;\nfunction two() {}\nconst own = 0;\nlet four = `export`;\n"
        "return { one, two };\n})();\n"
        "const $b = (() => {\n"
        "const { one } = $a;\nclass Three {}\nasync function five() {}\n"
        "return { Three, five };\n})();\n"
        "const $main = (() => {\n"
        "const { one, two } = $a;\nconst { Three } = $b;\nlog(one, two, Three);\n"
        "return {  };\n})();\n"
    )


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('import { none } from "./a.js";', r"main\.js imports none, and a\.js does not export it"),
        ('import { none } from "./none.js";', r"there is no module none\.js"),
        ('import { one as other } from "./a.js";', "cannot be put"),
        ('import * as a from "./a.js";', "cannot be put"),
        ('import { one } from "../a.js";', "cannot be put"),
        ("export default function () {}", "cannot be put"),
        ("export let one = 1;", "cannot be put"),
        ("const one = 1;\nexport { one };", "cannot be put"),
        ("await one();", "cannot be put"),
        ('  const a = () => import("./a.js");', "cannot be put"),
        ('import { main } from "./c.js";\nexport const one = 1;', "in a circle"),
    ],
)
def test_what_would_mean_something_else_in_one_script_is_refused(text: str, why: str) -> None:
    circle = {"c": 'import { one } from "./main.js";\nexport const main = one;'}
    with pytest.raises(ValueError, match=why):
        join_modules("main", MODULES | circle | {"main": text})


def test_a_sheet_has_those_that_it_imports_in_their_places() -> None:
    sheets = {"main.css": '@import "other.css";\na { color: red; }\n', "other.css": "b {}", "c.css": ""}
    assert join_styles("main.css", sheets) == "b {}\na { color: red; }\n"
