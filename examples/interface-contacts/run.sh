#!/bin/bash
# Interface contacts between the two structures that were uploaded with this script: every *.pdb, in sorted order,
# one side each. The cut-off in Å stands in cutoff.txt, if that was uploaded too.
set -euo pipefail
export LC_ALL=C.UTF-8 # one sorting order and UTF-8 output on every node
shopt -s nullglob nocaseglob

structures=(*.pdb)
if [ "${#structures[@]}" -ne 2 ]; then
    echo "run.sh: expected two *.pdb files, found ${#structures[@]}: ${structures[*]:-none}" >&2
    exit 2
fi

cutoff=5.0
if [ -f cutoff.txt ]; then
    cutoff=$(tr -d '[:space:]' <cutoff.txt)
fi

# `./` in front: a file may be named like an option.
python3 contacts.py --cutoff="$cutoff" "./${structures[0]}" "./${structures[1]}"
