"""Run a command in the tier `landlock`: `under_tier.py OPTIONS COMMAND…`, as a shepherd's child does.

OPTIONS is JSON: those of `LandlockTier`, of `Given`, of `prepare` and `enforce`, and `uid`, 0 for none of its
own.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[3]))

from node.confinement import visible
from node.confinement.landlock_tier import Given, LandlockTier


def main() -> None:
    options = json.loads(sys.argv[1])
    tier = LandlockTier(
        os.uname().machine,
        options["abi"],
        own_uid=options["uid"] != 0,
        read=map(os.fsencode, (*options["see"], *visible.OF_THE_KERNEL)),
        devices=map(os.fsencode, (*visible.DEVICES, *(visible.TERMINALS if options["uid"] else ()))),
        shared=[os.fsencode(visible.SHARED_MEMORY)],
    )
    own, write, read, devices = (
        [os.fsencode(path) for path in options[name]] for name in ("own", "write", "read", "devices")
    )
    given = Given(jobs=os.fsencode(options["jobs"]), own=own, read=read, devices=devices, write=write)
    rules = tier.prepare(given, network=options["network"])
    if options["uid"]:
        os.setgroups([])
        os.setresgid(*[options["uid"]] * 3)
        os.setresuid(*[options["uid"]] * 3)
    tier.enforce(rules, network=options["network"], sockets=options["sockets"])
    rules.close()
    os.execvp(sys.argv[2], sys.argv[2:])


if __name__ == "__main__":
    main()
