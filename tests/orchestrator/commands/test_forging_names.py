"""Names of files and jobs that would forge a terminal's lines, a spreadsheet's cells or a header of HTTP."""

from __future__ import annotations

import re
import shlex
from typing import Final
from urllib.parse import quote, unquote

import httpx
import pytest
from support.processes.processes import Place, Started

from orchestrator.client import Client, Refused

USER: Final = 47
NAMES: Final = (
    *("=cmd|' calc'!A1", "+1", "-rf", "@SUM(1)", "\t=1", "a;=1", "100%41%0d%0a"),
    *("\x1b[2J\x1b]0;owned\x07", "two\nlines", "back\rover", "\x9b31m", "\u202egpj.exe", "line\u2028end"),
    *("\r\nSet-Cookie: a=b", '"; filename="x.exe', "a\\", "<b>x", "'; filename*=UTF-8''y"),
)
SCRIPT: Final = f"touch -- {' '.join(map(shlex.quote, NAMES))}; echo $'\\e[2J' > run.log".encode()
DISPOSITION: Final = re.compile(
    r"attachment; filename=\"[\w.+-]+\"(; filename\*=UTF-8''([\w.~%-]+))?", re.ASCII
)


def in_lines(text: str) -> bool:
    return all(one.isprintable() or one == "\n" for one in text)


def test_no_name_forges_a_line_a_header_or_the_log(here: Place, shared: Started) -> None:
    with Client(shared.url) as client:
        submitted = client.submit({"run.sh": SCRIPT}, user=USER, name="=1+1", tags=["=1+1", "@SUM"])
        job = client.wait(submitted.id, 60)
        listed = [file.path for file in client.files(job.id)]
    assert job.status == "Completed" and {*NAMES} <= {*listed}
    environment = {"ORCHESTRATOR_URL": shared.url, "XDG_CONFIG_HOME": "/nowhere"}
    for arguments in (
        ("ls",),
        ("status", job.id),
        ("files", job.id),
        ("files", job.id, "--json"),
        ("get", job.id),
    ):
        done = here.command(*map(str, arguments), environment=environment)
        assert done.status == 0, done
        assert in_lines(done.out) and all(map(in_lines, done.lines)), arguments
        if arguments == ("files", job.id):
            assert len(done.out.splitlines()) == 1 + len(listed), "one line for each"
    with httpx.Client(base_url=shared.url, trust_env=False) as http:
        for path in listed:
            answer = http.get(f"/v1/jobs/{job.id}/files/{quote(path, safe='')}")
            assert answer.status_code == 200, path
            told = answer.headers["Content-Disposition"]
            found = DISPOSITION.fullmatch(told)
            assert found is not None, told
            assert unquote(found[2] or "").isprintable(), told
            assert (
                "Set-Cookie" not in answer.headers and answer.headers["X-Content-Type-Options"] == "nosniff"
            )
    assert in_lines(shared.log.read_text())


@pytest.mark.parametrize("name", ["\x1b[2J", "two\nlines", "\x9b31m", "a\tb"])
def test_a_job_has_no_name_that_steers_anything(shared: Started, name: str) -> None:
    with Client(shared.url) as client, pytest.raises(Refused, match="on one line"):
        client.submit({"run.sh": b"true"}, user=USER, name=name)
