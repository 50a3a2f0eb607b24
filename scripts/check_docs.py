"""Run the commands that the documents show, as written: scripts/check_docs.py [DOCUMENT.md...]

Every fenced block marked `bash` in README.md, docs/ and the examples is run; those of one document in
order in one bash, which stops at the first command that fails. A block that cannot be run says why in a
comment above it:

    <!-- not run: it needs an account in a cloud -->

The documents see a copy of the repository as working directory, so nothing they write stays; the
environment of this interpreter, activated; and an orchestrator of their own with two nodes. Documents
name it by its usual address: the port it really has is put in its place (and is in the variable S), as no
check may need a fixed port.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
USUAL_ADDRESS = re.compile(r"(127\.0\.0\.1|localhost):5000\b")
EXEMPT = re.compile(r"<!--\s*not run:\s*(?P<reason>\S.*?)\s*-->")
FENCE = re.compile(r"^(?P<indent>\s*)(?P<ticks>`{3,})\s*(?P<language>\w*)")
LISTENING = re.compile(r"listening on (http://\S+)")

DOCUMENT_SECONDS = 240.0
"""How long all commands of one document may take; the set-up is in place already."""
START_SECONDS = 60.0
"""How long the orchestrator may take until it listens."""
STOP_SECONDS = 30.0
"""How long it may take to end after SIGTERM before it is killed."""


class DocumentFailed(Exception):
    """A document cannot be checked or a command in it failed; the message says which and where."""


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced bash block: the line of its first command, its text, and why it is exempt, if it is."""

    line: int
    text: str
    exempt: str | None


def main(names: list[str]) -> int:
    documents = [Path(name).resolve() for name in names] or find_documents()
    failed = False
    for document in documents:
        name = document.relative_to(ROOT) if document.is_relative_to(ROOT) else document
        try:
            check(document, str(name))
        except DocumentFailed as error:
            print(f"{name}:{error}", file=sys.stderr)
            failed = True
    return 1 if failed else 0


def check(document: Path, name: str) -> None:
    """Run what one document shows. Raises DocumentFailed."""
    blocks = bash_blocks(document.read_text(encoding="utf-8"))
    for block in blocks:
        if block.exempt is not None:
            print(f"{name}:{block.line}: not run: {block.exempt}")
    wanted = [block for block in blocks if block.exempt is None]
    if not wanted:
        return
    with copied_repository() as copy, running_orchestrator(copy) as address:
        run_blocks(wanted, copy, address)
    print(f"{name}: {len(wanted)} blocks ran", flush=True)


def find_documents() -> list[Path]:
    places = [ROOT.glob("*.md"), (ROOT / "docs").rglob("*.md"), (ROOT / "examples").rglob("*.md")]
    return sorted(path for place in places for path in place)


def bash_blocks(text: str) -> list[Block]:
    """The bash blocks of a Markdown text in order. Raises DocumentFailed for a fence that is never closed."""
    blocks: list[Block] = []
    above = ""
    lines = iter(enumerate(text.splitlines(), start=1))
    for number, line in lines:
        fence = FENCE.match(line)
        if fence is None:
            above = line if line.strip() else above  # an empty line between comment and fence is usual
            continue
        body: list[str] = []
        for _, inner in lines:
            if inner.strip() == fence["ticks"]:
                break
            body.append(inner.removeprefix(fence["indent"]))
        else:
            raise DocumentFailed(f"{number}: the block that begins here never ends")
        if fence["language"] == "bash":
            exempt = EXEMPT.search(above)
            blocks.append(Block(number + 1, "\n".join(body), exempt["reason"] if exempt else None))
        above = ""
    return blocks


def run_blocks(blocks: list[Block], directory: Path, address: str) -> None:
    """All blocks in one bash in `directory`. Raises DocumentFailed with the line of the block that failed."""
    port = address.rpartition(":")[2]
    place = directory.parent / "block"
    script = ["set -e"]
    for block in blocks:
        script.append(f"echo {block.line} > {str(place)!r}")
        script.append(USUAL_ADDRESS.sub(rf"\1:{port}", block.text))
    environment = {
        **os.environ,
        "PATH": f"{directory / '.venv' / 'bin'}:{os.environ['PATH']}",
        "S": address,
        "TMPDIR": str(directory.parent),
    }
    with (directory.parent / "output").open("w+", encoding="utf-8", errors="replace") as output:
        shell = subprocess.Popen(
            ["bash", "-c", "\n".join(script)],
            cwd=directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status: int | None = shell.wait(DOCUMENT_SECONDS)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            _kill_group(shell)  # what a block left in the background ends with its document
            shell.wait()
        if status == 0:
            return
        output.seek(0)
        said = "".join(f"    {line}" for line in output.readlines()[-30:])
    what = f"no end after {DOCUMENT_SECONDS:.0f} s" if status is None else f"status {status}"
    raise DocumentFailed(f"{place.read_text().strip()}: {what} from the commands of this block\n{said}")


@contextmanager
def copied_repository() -> Iterator[Path]:
    """A directory with the files git knows or would take, and the environment of this one by a link."""
    with tempfile.TemporaryDirectory(prefix="orchestrator-docs-") as name:
        copy = Path(name) / "project"
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        for file in filter(None, listed.stdout.split("\0")):
            if (ROOT / file).is_file():
                (copy / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / file, copy / file)
        (copy / ".venv").symlink_to(Path(sys.prefix))
        yield copy


@contextmanager
def running_orchestrator(copy: Path, environment: Mapping[str, str] | None = None) -> Iterator[str]:
    """The address of an `orchestrator up` of two nodes on a port of its own, with its data where the README
    has them; `environment` is added to ours. Raises DocumentFailed."""
    with tempfile.TemporaryDirectory(prefix="orchestrator-docs-") as name:
        command = [str(Path(sys.executable).with_name("orchestrator")), "up", "--nodes", "2", "--slots", "2"]
        command += ["--port", "0", "--data", str(copy / "orchestrator-data")]
        with (Path(name) / "log").open("w+", errors="replace") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
            )
            try:
                yield _address(process, Path(name) / "log")
            finally:
                process.terminate()
                try:
                    process.wait(STOP_SECONDS)
                except subprocess.TimeoutExpired:
                    _kill_group(process)
                    process.wait()
                assert process.stdout is not None
                process.stdout.close()


def _address(process: subprocess.Popen[str], log: Path) -> str:
    """Read from its first lines; one that says nothing in time is killed, which ends the reading."""
    late = threading.Timer(START_SECONDS, _kill_group, [process])
    late.start()
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if found := LISTENING.search(line):
                return found[1].rstrip("/")
    finally:
        late.cancel()
        late.join()
    raise DocumentFailed(f" orchestrator up ended before it listened: {log.read_text().strip()[-500:]}")


def _kill_group(process: subprocess.Popen[str] | subprocess.Popen[bytes]) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return  # all of it has ended


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
