"""The recipes of the documents, those that need nothing or are installed, in each tier that works here."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from recipes import DOCUMENT, RECIPES, run_recipe

QUICK = [name for name in ("Conda under a home", "Open MPI") if not RECIPES[name].missing()]


@pytest.mark.parametrize("tier", ["bubblewrap", "landlock"])
@pytest.mark.parametrize("name", QUICK)
def test_a_recipe_runs(name: str, tier: str) -> None:
    assert run_recipe(name, RECIPES[name], tier) == ""


def test_without_what_is_granted_a_recipe_fails_and_the_message_says_what_it_needs() -> None:
    name = "Conda under a home"
    wrong = run_recipe(name, replace(RECIPES[name], settings=lambda _tier, _home: {}), "landlock")
    assert re.match(r'Failed, exit code 1; .* scripts do not see it: read = \["/.*/miniconda3"\]', wrong)


def test_every_recipe_stands_in_the_document_and_says_how_it_was_tried() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    headings = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert RECIPES.keys() <= set(headings)
    told = re.findall(r"^\| \[.+?\]\(#(.+?)\) \|", text, re.MULTILINE)
    assert told == [heading.lower().replace(",", "").replace(" ", "-") for heading in headings]
