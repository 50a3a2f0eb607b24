"""In a namespace of mounts: a job tries to read another one's file where a mount shows it within a tree.

Before there is this mount, with it, and when it has gone; printed is whether it got at it.

Run with a directory to work in.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[3]))

from node.confinement import common_rules
from node.confinement.landlock import find_abi
from node.confinement.landlock_tier import Given, LandlockTier

FILES = 70


def main() -> None:
    common_rules._SETTLED = -1  # Nothing but the mounts is to make it look again.
    here = Path(sys.argv[1])
    data, seen = here / "data", here / "seen"
    work, other = (data / "jobs" / name / "work" for name in ("mine", "other"))
    again = seen / "again"
    for each in (work, other, again):
        each.mkdir(parents=True)
    (other / "secret").write_text("secret")
    names = [seen / f"file{number}" for number in range(FILES)]
    for each in names:
        each.touch()
    system = (path for path in ("/usr", "/bin", "/lib", "/lib64") if os.path.exists(path))
    read = [os.fsencode(path) for path in (*system, *names)]
    tier = LandlockTier(os.uname().machine, find_abi(), own_uid=False, read=read, devices=[], shared=[])
    given = Given(jobs=os.fsencode(data / "jobs"), own=[os.fsencode(work)], read=[], devices=[], write=[])
    look = ["cat", str(again / "jobs" / "other" / "work" / "secret"), str(other / "secret")]

    def attempt() -> None:
        tier.keep(given)
        rules = tier.prepare(given, network=False)
        done = subprocess.run(
            look,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            check=False,
            preexec_fn=lambda: tier.enforce(rules, network=False, sockets=False),
        )
        kind = "common" if tier.common.trees is not None else "not common"
        print(f"{kind}: {'read' if done.stdout else 'refused'}", flush=True)

    attempt()
    subprocess.run(["mount", "--bind", data, again], check=True)
    attempt()
    subprocess.run(["umount", again], check=True)
    attempt()


if __name__ == "__main__":
    main()
