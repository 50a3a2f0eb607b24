"""What a script prints is in its logs: whatever it opens anew, at once, and no more than the limit."""

from __future__ import annotations

import errno
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from support.data.directories import until

from node.executors import log_pipes
from node.executors.log_pipes import LogPipe

LIMIT = 64 << 10


async def _logs(executor, spec) -> tuple[str, str]:
    with trio.fail_after(60):
        await (await executor.start(spec)).wait()
    return (spec.directory / "stdout.log").read_text(), (spec.directory / "stderr.log").read_text()


@pytest.mark.parametrize(
    "again",
    [
        "echo two > /dev/stdout",
        "(echo two | tee /dev/fd/3 >/dev/null) 3>&1",
        "echo two > /proc/self/fd/1",
        "exec > /dev/stdout; echo two",
        ": > /dev/stdout; echo two",
        "truncate -s 0 /dev/stdout 2>/dev/null; echo two",
        "echo two | dd of=/dev/stdout 2>/dev/null",
        "echo two | cp /dev/stdin /dev/stdout",
        'python3 -S -c \'open("/dev/stdout", "w").write("two\\n")\'',
    ],
)
async def test_a_script_that_opens_its_own_output_cuts_nothing_off(executor, payloads, again):
    spec = payloads.make(f"echo one; {again}; echo three; echo e >&2; echo f | tee /dev/stderr; echo g >&2")
    assert await _logs(executor, spec) == ("one\ntwo\nthree\nf\n", "e\nf\ng\n")


async def test_a_line_is_in_the_log_while_the_script_runs(executor, payloads):
    spec = payloads.make("echo now; NAP")
    run = await executor.start(spec)
    await until(lambda: (spec.directory / "stdout.log").read_bytes() == b"now\n", spec.directory)
    await run.stop(0)


async def test_a_script_that_closes_its_output_leaves_its_shepherd_asleep(executor, payloads, signpost):
    spec = payloads.make("exec >&- 2>&-; trap 'exit 3' TERM; echo up > signpost; NAP & wait")
    post = signpost(spec)
    run = await executor.start(spec)
    await post.line()
    before = _cpu_ticks(run.pid)
    await trio.sleep(0.3)
    assert _cpu_ticks(run.pid) - before <= 2
    with trio.fail_after(60):
        await run.stop(60.0)
        assert (await run.wait()).exit_code == 3


def _cpu_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


async def test_over_the_limit_head_and_tail_are_kept_and_the_script_goes_on(executor, payloads):
    spec = replace(payloads.make("seq 1000000; echo done >&2; exit 3"), log_limit=LIMIT)
    run = await executor.start(spec)
    with trio.fail_after(60):
        end = await run.wait()
    assert end.exit_code == 3
    log = (spec.directory / "stdout.log").read_text()
    assert len(log) < LIMIT + 200
    found = re.fullmatch(
        r"((?:\d+\n)+)\n\[this log has reached 65536 bytes: of what follows only the end is kept\]\n"
        r"\n\[(\d+) bytes are left out here\]\n((?:\d+\n)+)",
        log,
    )
    assert found is not None
    head, missing, tail = found[1], int(found[2]), found[3]
    whole = "".join(f"{number}\n" for number in range(1, 1_000_001))
    assert whole.startswith(head) and whole.endswith(tail)
    assert len(head) + missing + len(tail) == len(whole)
    assert len(head) + len(tail) > LIMIT - 20
    assert (end.left_out, end.unwritten) == (missing, 0)
    assert (spec.directory / "stderr.log").read_text() == "done\n"


async def test_an_endless_flood_fills_no_disk_and_its_end_can_be_ordered(executor, payloads, signpost):
    spec = replace(
        payloads.make("yes 1>&2 & head -c 20M /dev/zero; echo up > signpost; wait"), log_limit=LIMIT
    )
    post = signpost(spec)
    run = await executor.start(spec)
    await post.line()
    with trio.fail_after(60):
        await run.stop(0)
    for name in ("stdout.log", "stderr.log"):
        assert (spec.directory / name).stat().st_size < LIMIT + 200


async def test_all_that_was_printed_before_the_end_is_in_the_log(executor, payloads, tier):
    # More than a pipe holds, by a child that is ended with its script.
    spec = payloads.make("trap 'seq 30000; exit 0' TERM; kill -TERM $$")
    out, _ = await _logs(executor, spec)
    assert out.split()[-1] == "30000"
    if tier != "bash":
        return  # It does not see its log.
    spec = payloads.make("(echo early; NAP) & until [ -s ../stdout.log ]; do :; done")
    assert await _logs(executor, spec) == ("early\n", "")


class Disk:
    """A disk that takes no byte while it is full."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.full = False
        self._write = os.write
        monkeypatch.setattr(log_pipes.os, "write", self.write)

    def write(self, descriptor: int, data: bytes) -> int:
        if self.full:
            raise OSError(errno.ENOSPC, "full")
        return self._write(descriptor, data)


@pytest.mark.parametrize(("more", "lost"), [(1000, 0), (40_000, 40_000 - LIMIT // 2 // 10)])
def test_what_a_full_disk_did_not_take_is_written_later_or_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: int, lost: int
) -> None:
    disk = Disk(monkeypatch)
    log = LogPipe(bytes(tmp_path / "log"), LIMIT)
    log.keep(b"before\n")
    disk.full = True
    for _ in range(more):
        log.keep(b"meanwhile\n")
        assert log.stuck or lost
    disk.full = False
    log.keep(b"after\n")
    log.finish()
    log.close()
    text = (tmp_path / "log").read_text()
    assert text.startswith("before\n") and text.endswith("meanwhile\nafter\n")
    if lost:
        found = re.search(r"\n\[(\d+) bytes could not be written here\]\n", text)
        assert found is not None and log.unwritten == int(found[1])
        assert text.count("meanwhile\n") + log.unwritten / 10 == more
    else:
        assert (text.count("meanwhile\n"), log.unwritten) == (more, 0)


def test_what_a_full_disk_never_took_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(monkeypatch)
    log = LogPipe(bytes(tmp_path / "log"), LIMIT)
    log.keep(b"before\n")
    disk.full = True
    log.keep(b"lost\n")
    log.finish()
    log.close()
    assert (log.unwritten, log.left_out) == (5, 0)


def test_a_piece_that_just_fills_the_head_leaves_the_word_to_the_next(tmp_path: Path) -> None:
    log = LogPipe(bytes(tmp_path / "log"), 200)
    for _ in range(30):
        log.keep(b"123456789\n")
    log.finish()
    log.close()
    said = re.findall(r"\[(.*)\]", (tmp_path / "log").read_text())
    assert said == [
        "this log has reached 200 bytes: of what follows only the end is kept",
        "100 bytes are left out here",
    ]


@pytest.mark.parametrize("limit", [1, 2, 3, 10, 100, 1000])
def test_whatever_the_limit_and_the_pieces_nothing_is_missing_untold(tmp_path: Path, limit: int) -> None:
    whole = b"".join(b"%d\n" % number for number in range(300))
    for size in (1, 7, 100, 5000):
        path = tmp_path / f"{limit}-{size}"
        log = LogPipe(bytes(path), limit)
        for start in range(0, len(whole), size):
            log.keep(whole[start : start + size])
        log.finish()
        log.close()
        kept = re.sub(rb"\n\[(this log|\d+ bytes)[^\]]*\]\n", b"|", path.read_bytes())
        head, _, tail = kept.partition(b"|")
        assert whole.startswith(head) and whole.endswith(tail.strip(b"|"))
        assert len(head) + len(tail.strip(b"|")) + log.left_out == len(whole)
        assert len(head) + len(tail.strip(b"|")) <= limit
