"""The tier `bubblewrap`: what `bwrap` is told to show a script, and to keep from it.

What scripts see stands in trees of mounts, which each shepherd puts together once and adds to for each script
(`script_view`); the rest is up to the child of a shepherd that becomes bwrap, and runs as the script's user.

Imported by the shepherd: standard library only.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

TREE, DEVICE_TREE = "/tmp/view/tree", "/tmp/view/dev"
"""Where the trees are found, of files and of devices."""
PROC = b"/proc/"
"""What is given of it is bound by bwrap, which mounts it for each script."""
TEMPORARY = (b"/tmp", b"/var/tmp")
"""What a script has of its own, and nobody's else."""
DEVICES = (b"/dev/null", b"/dev/zero", b"/dev/full", b"/dev/random", b"/dev/urandom", b"/dev/tty")
"""What a script has of the machine's. Where it is root they are its own, as far as the kernel can tell."""
_SHEPHERD = "1"
_ONLY_TO_READ = ("sys", "fs", "irq", "bus", "acpi", "scsi")
OF_ROOT_ALONE = (
    "sysrq-trigger",
    "kcore",
    "keys",
    "kpagecgroup",
    "kpagecount",
    "kpageflags",
    "slabinfo",
    "timer_list",
    "vmallocinfo",
    "pagetypeinfo",
)
"""Of `/proc`, where scripts are root: what is root's there root writes and reads without a capability, also
in a user namespace. By a setting such as `core_pattern` a script would be out. Others may not, and each mount
costs a job 0.2 ms."""


def begin(bwrap: str, *, own_uid: bool, root: bool) -> list[str]:
    """What every command begins with: namespaces, and the tree. `own_uid`: scripts have uids of their own;
    without, they are the user of their shepherd, and of that of jobs to come; `root`: that is root."""
    command = [bwrap, "--unshare-user", "--unshare-ipc", "--unshare-uts", "--new-session"]
    command += ["--bind", TREE, "/", "--dev-bind", DEVICE_TREE, "/dev", "--proc", "/proc"]
    if not own_uid:
        for name in (_SHEPHERD, *(_ONLY_TO_READ if root else ())):
            command += ["--ro-bind-try", f"/proc/{name}", f"/proc/{name}"]
        for name in OF_ROOT_ALONE if root else ():
            if os.path.exists(f"/proc/{name}"):
                command += ["--ro-bind", "/dev/null", f"/proc/{name}"]
    return command


def add_script(
    begin: Sequence[bytes],
    *,
    network: bool,
    containers: bool,
    read: Iterable[bytes],
    filters: Iterable[int],
    work: bytes,
    block: int,
    info: int,
) -> list[bytes]:
    """The whole command before what is run in it, which sees what the trees show, where nothing can be made
    but in what it writes.

    `read`: of what is given that which lies in `/proc`. Numbers are descriptors: of programs for seccomp, of
    the pipe that holds it back, and of the one into which it says its pid.
    """
    command = list(begin)
    if not network:
        command.append(b"--unshare-net")
    if not containers:
        command.append(b"--disable-userns")
    # Root has them all in a namespace of its own, and they count for what root owns: it would take away what
    # covers the machine's files. In namespaces that it makes itself it has them anew, and those covers stay.
    command += [b"--cap-drop", b"ALL"]
    if containers:
        command += [b"--cap-add", b"CAP_SETFCAP"]  # Without it the kernel lets root make none of users.
    for path in read:
        if path.startswith(PROC):
            command += [b"--ro-bind-try", path, path]
    command += [b"--chdir", work]
    for descriptor in filters:
        command += [b"--add-seccomp-fd", b"%d" % descriptor]
    return [*command, b"--block-fd", b"%d" % block, b"--info-fd", b"%d" % info, b"--"]
