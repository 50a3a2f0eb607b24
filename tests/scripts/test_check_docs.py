"""scripts/check_docs.py: which blocks of a document are run, how, and what is said of one that fails."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "check_docs.py"


@pytest.fixture(scope="module")
def check_docs() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_docs", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_only_bash_blocks_are_taken_with_the_line_they_begin_at(check_docs: ModuleType) -> None:
    text = "# T\n\n```bash\necho a\n```\n```python\nprint()\n```\n```\nplain\n```\n\n"
    text += "```bash\necho b\n\necho c\n```\n"
    found = [(block.line, block.text) for block in check_docs.bash_blocks(text)]
    assert found == [(4, "echo a"), (14, "echo b\n\necho c")]


def test_blocks_within_a_list_lose_its_indentation_and_no_more(check_docs: ModuleType) -> None:
    (block,) = check_docs.bash_blocks("1. a\n   ```bash\n   if true; then\n     echo\n   fi\n   ```\n")
    assert block.text == "if true; then\n  echo\nfi"


@pytest.mark.parametrize("between", ["", "\n"])
def test_a_comment_exempts_the_next_block_only(check_docs: ModuleType, between: str) -> None:
    text = f"<!-- not run: needs a cloud -->\n{between}```bash\na\n```\n\n```bash\nb\n```\n"
    assert [block.exempt for block in check_docs.bash_blocks(text)] == ["needs a cloud", None]


def test_an_exemption_needs_its_reason(check_docs: ModuleType) -> None:
    (block,) = check_docs.bash_blocks("<!-- not run: -->\n```bash\na\n```\n")
    assert block.exempt is None


def test_a_fence_shown_within_a_longer_fence_is_no_block(check_docs: ModuleType) -> None:
    assert check_docs.bash_blocks("````\n```bash\nrm x\n```\n````\n") == []


def test_a_block_that_never_ends_is_an_error_with_its_line(check_docs: ModuleType) -> None:
    with pytest.raises(check_docs.DocumentFailed, match=r"^2: .* never ends"):
        check_docs.bash_blocks("a\n```bash\necho\n")


def run(check_docs: ModuleType, directory: Path, text: str) -> None:
    project = directory / "project"
    project.mkdir(exist_ok=True)
    check_docs.run_blocks(check_docs.bash_blocks(text), project, "http://127.0.0.1:54321")


def test_blocks_share_one_shell_in_the_project_and_see_the_real_port(
    check_docs: ModuleType, tmp_path: Path
) -> None:
    blocks = "```bash\nx=http://127.0.0.1:5000/upload\n```\n```bash\necho $x $S > seen\n```\n"
    run(check_docs, tmp_path, blocks)
    seen = (tmp_path / "project" / "seen").read_text()
    assert seen == "http://127.0.0.1:54321/upload http://127.0.0.1:54321\n"


def test_the_first_command_that_fails_stops_the_document_and_is_named(
    check_docs: ModuleType, tmp_path: Path
) -> None:
    text = "```bash\ntrue\n```\n\n```bash\necho some words\n(exit 3)\ntouch after\n```\n"
    with pytest.raises(check_docs.DocumentFailed) as failed:
        run(check_docs, tmp_path, text)
    assert str(failed.value).startswith("6: status 3 ")
    assert "some words" in str(failed.value)
    assert not (tmp_path / "project" / "after").exists()


def test_a_document_without_end_is_stopped(
    check_docs: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check_docs, "DOCUMENT_SECONDS", 0.3)
    with pytest.raises(check_docs.DocumentFailed, match=r"^2: no end after"):
        run(check_docs, tmp_path, "```bash\nsleep 600\n```\n")


def test_the_projects_documents_can_be_read(check_docs: ModuleType) -> None:
    for document in check_docs.find_documents():
        check_docs.bash_blocks(document.read_text(encoding="utf-8"))
