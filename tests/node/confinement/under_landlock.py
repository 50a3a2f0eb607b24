"""Run a command under Landlock: `under_landlock.py OPTIONS COMMAND…`.

OPTIONS is JSON: `abi`, `network`, and lists of paths: `read`, `write`, `device`.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[3]))

from node.confinement.landlock import DEVICE, READ, WRITE, Ruleset


def main() -> None:
    options = json.loads(sys.argv[1])
    ruleset = Ruleset(options["abi"], network=options.get("network", False))
    for name, rights in (("read", READ), ("write", WRITE), ("device", DEVICE)):
        for path in options.get(name, ()):
            ruleset.allow(path, rights)
    ruleset.enforce()
    ruleset.close()
    os.execvp(sys.argv[2], sys.argv[2:])


if __name__ == "__main__":
    main()
