"""The documents as a site: it is built strictly, and has what is written from the app."""

from __future__ import annotations

from pathlib import Path

import build_site
import pytest


def test_the_site_is_built_without_a_word_of_warning(tmp_path: Path) -> None:
    assert build_site.main([str(tmp_path)]) == 0
    assert "<h1" in (tmp_path / "index.html").read_text(encoding="utf-8")
    reference = (tmp_path / build_site.REFERENCE).with_suffix(".html").read_text(encoding="utf-8")
    for path, operations in build_site.openapi()["paths"].items():
        for method in operations:
            assert f">{method.upper()} {path}<" in reference, (method, path)


def test_what_leads_nowhere_ends_the_build(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    build_site.stage(tmp_path / "staged")
    docs = tmp_path / "staged" / "pages" / "docs"
    (docs / "more.md").write_text("# More\n")
    (docs / "scaling.md").unlink()
    with (docs / "api.md").open("a") as page:
        page.write("\n[one](nowhere.md) [two](security.md#nothing-of-that-name)\n")
    assert build_site.build(tmp_path / "staged", tmp_path / "site") == 1
    said = capfd.readouterr().err
    for wrong in (
        "'docs/nowhere.md'",
        "'#nothing-of-that-name'",
        "- docs/more.md",
        "'docs/scaling.md' is included",
    ):
        assert wrong in said
