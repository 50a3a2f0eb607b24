"""What a script finds around it when it begins."""

from __future__ import annotations

import os

import trio

from actors.process import procfs
from node.executors.executor import RunSpec
from node.executors.shepherd_executor import ShepherdExecutor

LOOK = """
exec python3 -I -S -c '
import os, signal, sys
print("umask %03o" % os.umask(0))
print("leader", os.getsid(0) == os.getpid())
print("stdin", os.readlink("/proc/self/fd/0"))
print("cwd", os.getcwd())
'
"""


async def _output(executor: ShepherdExecutor, spec: RunSpec) -> str:
    with trio.fail_after(60):
        run = await executor.start(spec)
        await run.wait()
    return (spec.directory / "stdout.log").read_text(errors="surrogateescape")


async def test_a_script_has_its_own_session_no_input_and_a_plain_umask(executor, payloads):
    spec = payloads.make(LOOK)
    old = os.umask(0o077)
    try:
        output = await _output(executor, spec)
    finally:
        os.umask(old)
    assert "umask 022" in output
    assert "leader True" in output
    assert "stdin /dev/null" in output
    assert f"cwd {spec.work}" in output


async def test_the_environment_is_the_given_one_and_nothing_else(executor, payloads):
    given = {
        "USER": "somebody",
        "LOGNAME": "somebody",
        "PATH": os.environ["PATH"],
        "LINES_2": "a\nb",
        "BYTES": "caf\udce9",
        "EMPTY": "",
        "BIG": "x" * 100_000,
    }
    spec = payloads.make("cat /proc/self/environ", given)
    await _output(executor, spec)
    seen = (spec.directory / "stdout.log").read_bytes()
    pairs = dict(entry.split(b"=", 1) for entry in seen.split(b"\0")[:-1])
    # Bash itself adds these three to what its children get.
    for name in (b"PWD", b"SHLVL", b"_"):
        pairs.pop(name)
    assert pairs == {os.fsencode(name): os.fsencode(value) for name, value in given.items()}


async def test_no_descriptor_of_the_node_reaches_a_script(payloads, isolation, tier, nursery):
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    try:
        executor = ShepherdExecutor(payloads.directory, isolation, tier=tier)
        await nursery.start(executor.serve)
        spec = payloads.make("ls /proc/$$/fd")
        # 255 is bash's own descriptor of the script.
        assert (await _output(executor, spec)).split() == ["0", "1", "2", "255"]
    finally:
        os.close(reader)
        os.close(writer)
        nursery.cancel_scope.cancel()


async def test_signals_have_their_default_meaning_whatever_the_node_ignores(executor, payloads):
    output = await _output(executor, payloads.make("grep -E 'SigIgn|SigBlk' /proc/self/status; exit 0"))
    # 32 and 33 belong to the C library.
    for line in output.splitlines():
        assert int(line.split()[1], 16) & ~(3 << 31) == 0
    output = await _output(executor, payloads.make("yes | head -1; echo ${PIPESTATUS[0]}"))
    assert output == "y\n141\n"


async def test_logs_hold_all_that_was_printed_whatever_happens_to_files_of_that_name(
    executor, payloads, tier
):
    script = "echo hello; echo mine > stdout.log; echo world"
    script += "; rm -f stdout.log; ln -s /etc/hostname stdout.log; echo x"
    own = ["own"] if tier == "bash" else []  # Else it does not see its log.
    spec = payloads.make(f"{script}; (echo own >> ../stdout.log) 2> /dev/null; printf '\\xff\\x00' >&2")
    assert sorted((await _output(executor, spec)).split()) == sorted(["hello", *own, "world", "x"])
    assert (spec.directory / "stderr.log").read_bytes() == b"\xff\0"
    assert await _output(executor, payloads.make(script)) == "hello\nworld\nx\n"


async def test_an_own_namespace_comes_with_its_own_proc(executor, payloads, isolation):
    output = await _output(
        executor, payloads.make("readlink /proc/self/ns/pid; echo $(ls -d /proc/[0-9]* | wc -l)")
    )
    namespace, count = output.split()
    own = isolation != "subreaper"
    assert (namespace != os.readlink("/proc/self/ns/pid")) == own
    assert (int(count) < 8) == own
    # And the machine's own mounts are as they were.
    assert procfs.start_time(os.getpid())
