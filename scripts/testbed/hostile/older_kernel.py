"""Run the console command as on a kernel with an older Landlock, where no namespaces can be made:
`older_kernel.py ABI PROGRAM ARGUMENTS`.

What the version does not know is not asked of the kernel, which then does not refuse it; so this is for
trials alone, and no setting of a node.
"""

from __future__ import annotations

import sys
from functools import partial
from unittest.mock import patch

from node import server
from node.confinement import landlock
from node.executors.shepherd_executor import ShepherdExecutor
from orchestrator.cli import main

if __name__ == "__main__":
    abi = int(sys.argv[1])
    if abi > landlock.find_abi():
        sys.exit(f"this kernel has version {landlock.find_abi()} of Landlock")
    sys.argv[:3] = [sys.argv[2]]
    without_namespaces = partial(ShepherdExecutor, isolation="subreaper")
    with patch.object(landlock, "NEWEST", abi), patch.object(server, "ShepherdExecutor", without_namespaces):
        main()
