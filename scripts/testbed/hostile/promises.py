"""What each hostile job tries, in words, and where it is promised that it fails."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

BUBBLEWRAP: Final = "bubblewrap"
LANDLOCK: Final = "landlock"
BASH: Final = "bash"
TIERS: Final = (BUBBLEWRAP, LANDLOCK, BASH)
ABIS: Final = (1, 4, 7)
"""Versions of Landlock that are tried, each on its own."""
SIGNALS: Final = 6
"""The version from which Landlock keeps signals from processes outside."""
NEVER: Final = 1 << 10


@dataclass(frozen=True, slots=True)
class Setup:
    """How a node runs scripts. `abi`: in the tier `landlock` as on a kernel that has no later version of it,
    and where no namespaces can be made; None: as this machine allows."""

    tier: str
    uids: bool
    abi: int | None = None

    @property
    def name(self) -> str:
        if self.tier == BASH:
            return self.tier
        version = "" if self.abi is None else f" {self.abi}"
        return f"{self.tier}{version}, {'' if self.uids else 'no '}uids of their own"


@dataclass(frozen=True, slots=True)
class Trial:
    """`what` it tries. `everywhere`: it is contained in every tier. `landlock`, `own_uid`: whether Landlock
    contains it, and whether a uid of its own is needed for that, `own_uid_anyway`: also under bubblewrap.
    `namespaces`: under Landlock it is contained by those alone; `since`: or, without a uid of its own, by
    this version of Landlock. `may_die`: it may be ended before it can say how it went. `harms`: not run where
    nothing contains it, `harms_all`: nor where that is not promised. `alone`: only when it is asked for, as
    it takes minutes."""

    what: str
    everywhere: bool = False
    landlock: bool = True
    own_uid: bool = False
    own_uid_anyway: bool = False
    namespaces: bool = False
    since: int = 1
    may_die: bool = False
    harms: bool = False
    harms_all: bool = False
    alone: bool = False

    def promised(self, setup: Setup) -> bool:
        if self.everywhere:
            return True
        if setup.tier == BASH:
            return False
        if not setup.uids and self.own_uid_anyway:
            return False
        if setup.tier == BUBBLEWRAP:
            return True
        if setup.abi is not None and (self.namespaces or (setup.abi < self.since and not setup.uids)):
            return False
        return self.landlock and (setup.uids or not self.own_uid)

    def tried(self, setup: Setup) -> bool:
        """Whether it is run at all."""
        return self.promised(setup) or not (self.harms_all or (self.harms and setup.tier == BASH))


TRIALS: Final[Mapping[str, Trial]] = {
    # what is read
    "shadow": Trial("read `/etc/shadow`"),
    "job-input": Trial("read another job's input"),
    "job-home": Trial("read another job's home"),
    "job-result": Trial("read another job's stored results"),
    "jobs-listed": Trial("list the jobs of the node"),
    "ledger": Trial("read the ledger"),
    "operator-token": Trial("read the operator's token"),
    "node-secret": Trial("read the secret between node and orchestrator"),
    "private-file": Trial("read somebody's private file"),
    "open-file": Trial("read a file below `/tmp` that any user may read"),
    "arguments": Trial("see other processes and their arguments", namespaces=True),
    "environment-node": Trial("read the node's environment"),
    "environment-server": Trial("read the server's environment"),
    "environment-other": Trial("read another process's environment"),
    "environment-watcher": Trial("read the environment of the shepherd that watches it"),
    "memory-node": Trial("read the node's memory"),
    "memory-server": Trial("read the server's memory"),
    "memory-other": Trial("read another process's memory by `/proc`"),
    "memory-call": Trial("read another process's memory by `process_vm_readv`"),
    "descriptors": Trial("look into the node's descriptors"),
    "trace-node": Trial("trace the node"),
    "trace-other": Trial("trace another process"),
    "trace-watcher": Trial("trace the shepherd that watches it"),
    "kernel-log": Trial("read the kernel's log, `/dev/kmsg`"),
    # what is written
    "write-etc": Trial("make a file in `/etc`"),
    "write-usr": Trial("make a file in `/usr`"),
    "write-tmp": Trial("make a file in the machine's `/tmp`"),
    "write-data": Trial("make a file in the node's directory"),
    "write-ledger": Trial("open the ledger for writing"),
    "write-job": Trial("write into another job's file"),
    "own-record": Trial("change its own record, marks or logs"),
    "mode": Trial("change the mode of a file outside", own_uid=True),
    "owner": Trial("change the owner of a file outside", own_uid=True),
    "times": Trial("change the times of a file outside", own_uid=True),
    "attribute": Trial("add an attribute to a file outside", own_uid=True),
    "rename": Trial("rename a file outside"),
    "truncate": Trial("empty a file outside that anybody may write"),
    "hard-link": Trial("have a hard link to somebody's private file collected"),
    "symbolic-link": Trial("have a link to somebody's private file collected", everywhere=True),
    "swap": Trial("swap a directory for a link outside while it is read", everywhere=True),
    "setuid-left": Trial("make a setuid program of the node's user", own_uid=True, own_uid_anyway=True),
    # other processes
    "kill-all": Trial("`kill -9 -1`", since=SIGNALS, may_die=True, harms_all=True),
    "kill-watcher": Trial("kill the shepherd that watches it", since=SIGNALS, may_die=True),
    "signal-node": Trial("signal the node", since=SIGNALS),
    "signal-other": Trial("signal another process", since=SIGNALS),
    "limit-watcher": Trial("change the limits of the shepherd that watches it"),
    "priority": Trial("lower another process's priority", since=NEVER),
    "daemon": Trial("leave a daemon behind", everywhere=True),
    "bomb": Trial("make more processes than it may", may_die=True, harms=True),
    # the network
    "tcp-orchestrator": Trial("connect to the orchestrator"),
    "tcp-node": Trial("connect to the node"),
    "metadata": Trial("connect to a metadata address (one on loopback)"),
    "udp": Trial("send UDP"),
    "docker": Trial("connect to a socket as `docker.sock`"),
    "datagram": Trial("send a datagram to a socket as `/dev/log`"),
    "abstract": Trial("connect to an abstract socket"),
    "listen": Trial("open a port"),
    "vsock": Trial("use vsock"),
    "packets": Trial("listen to all packets"),
    # the kernel
    "namespaces": Trial("make a user namespace"),
    "mount": Trial("mount"),
    "keys": Trial("use keys of the kernel"),
    "bpf": Trial("load BPF"),
    "io-uring": Trial("use io_uring"),
    "perf": Trial("measure the whole machine by `perf_event_open`"),
    "device": Trial("make a device node and open it"),
    "device-mode": Trial("change the mode of `/dev/null`, or of its standard input", namespaces=True),
    "kernel-places": Trial("read what only root may read in `/proc`", namespaces=True),
    "kernel-settings": Trial("open a setting of the kernel for writing"),
    "root": Trial("be root, or become it by a setuid program"),
    "terminal": Trial("write or type into somebody's terminal"),
    "cgroup": Trial("leave its cgroup"),
    # more than its share
    "fill-memory": Trial("use more memory than it may", may_die=True, harms=True),
    "fill-disk": Trial("use more disk than it may", may_die=True, harms=True),
    "fill-disk-unseen": Trial("use more disk by a file without a name", may_die=True, harms=True),
    "fill-inodes": Trial("use more files than its disk is for", may_die=True, harms=True),
    "fill-shm": Trial("fill `/dev/shm`", landlock=False, may_die=True, harms=True),
    "burn": Trial("use more CPU time than it may", may_die=True, harms=True),
    "shm-left": Trial("leave a file in the machine's `/dev/shm`", landlock=False),
    "segment-left": Trial("leave System V shared memory", landlock=False),
    # what is left to be collected
    "many-files": Trial("leave more files than are collected", everywhere=True, may_die=True),
    "million-files": Trial("leave a million files", everywhere=True, may_die=True, alone=True),
    "special-files": Trial("leave FIFOs, sockets, devices, links to outside", everywhere=True),
    "deep-tree": Trial("leave a tree deeper than a path may be", everywhere=True, may_die=True),
    "sparse-file": Trial("leave a file of 1 TiB without data", everywhere=True),
    "long-logs": Trial("fill the disk by its logs", everywhere=True, may_die=True),
    "odd-names": Trial("forge lines, terminals and pages by names and logs", everywhere=True),
    "locked-directory": Trial("lock its directory", everywhere=True, may_die=True),
}
