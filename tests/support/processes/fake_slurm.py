"""Commands that answer as those of Slurm do and really run what they are given, or fail as they are told."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

_BEGIN: Final = """#!/bin/bash
place={place}
jobs={jobs}
[ "${{0##*/}}" != squeue ] || echo >> "$place/asked"
case $(cat "$place/mode") in
    unreachable) echo "slurm_load_jobs error: Unable to contact slurm controller" >&2; exit 1 ;;
esac
"""
_SBATCH: Final = """
for argument; do case $argument in --partition=nowhere)
    echo "sbatch: error: Batch job submission failed: Invalid partition name specified" >&2; exit 1 ;;
esac; done
number=$(( $(ls "$jobs" | grep -c . ) / 1 + 1 ))
while ! mkdir "$jobs/$number" 2>/dev/null; do number=$((number + 1)); done
here=$jobs/$number
for argument; do case $argument in
    --job-name=*) echo "${argument#*=}" > "$here/name" ;;
    --output=*) output=${argument#*=} ;;
    /*) last=$argument ;;
esac; done
cat > "$here/script"; chmod 700 "$here/script"
date +%s > "$here/submitted"
if [ -e "$place/hold" ]; then
    echo PENDING > "$here/state"
else
    echo RUNNING > "$here/state"
    (SLURM_JOB_ID=$number setsid "$here/script" "$last" > "$output" 2>&1 &
        echo $! > "$here/pid"; wait $!; code=$?
        [ "$(cat "$here/state")" = CANCELLED ] && exit
        [ -e "$place/miss-ends" ] && exit
        if [ $code = 0 ]; then echo COMPLETED; else echo FAILED; fi > "$here/state") > /dev/null 2>&1 &
fi
[ ! -e "$place/lose-answer" ] || { echo "Socket timed out on send/recv operation" >&2; exit 1; }
echo "$number"
"""
_SQUEUE: Final = """
case $(cat "$place/mode") in
    silent) exit 1 ;;
    empty) exit 0 ;;
    header) echo "JOBID|STATE|USER"; exit 0 ;;
    hangs) sleep 600 ;;
esac
for here in "$jobs"/*; do
    [ -e "$here/state" ] || continue
    state=$(cat "$here/state")
    case $(cat "$place/mode") in odd) [ "$state" != RUNNING ] || state=RUNNING+ ;; esac
    line="${here##*/}|$state|$(id -u)|$(cat "$here/submitted")|n1|Priority|$(cat "$here/name")|."
    case $(cat "$place/mode") in cut) printf %s "$line" | head -c 30; exit 0 ;; esac
    echo "$line"
done
"""
_SCONTROL: Final = """
for number; do :; done
here=$jobs/$number
[ -e "$here/state" ] || { echo "slurm_load_jobs error: Invalid job id specified" >&2; exit 1; }
echo "JobId=$number JobName=$(cat "$here/name") UserId=me($(id -u)) JobState=$(cat "$here/state")" \
    "Reason=None SubmitTime=$(cat "$here/submitted") NodeList=n1"
"""
_SCANCEL: Final = """
for number; do :; done
here=$jobs/$number
[ -e "$here/state" ] || exit 0
state=$(cat "$here/state")
for argument; do case $argument in
    --name=*) [ "$(cat "$here/name")" = "${argument#*=}" ] || exit 0 ;;
esac; done
case "$* $state" in
    *--state=PENDING*\\ PENDING) echo CANCELLED > "$here/state" ;;
    *--state=PENDING*) ;;
    *--signal=TERM*\\ RUNNING) kill -TERM "$(cat "$here/pid")" ;;
    *--signal=TERM*) ;;
    *RUNNING) echo CANCELLED > "$here/state"; kill -TERM "$(cat "$here/pid")" ;;
    *PENDING) echo CANCELLED > "$here/state" ;;
esac
"""


class FakeSlurm:
    """`mode`: how `squeue` answers, and with `unreachable` all of them. There is no partition `nowhere`."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.jobs = place / "jobs"
        self.jobs.mkdir(parents=True)
        programs = place / "bin"
        programs.mkdir()
        texts = {"sbatch": _SBATCH, "squeue": _SQUEUE, "scontrol": _SCONTROL, "scancel": _SCANCEL}
        texts["sacct"] = "echo Slurm accounting storage is disabled >&2; exit 1\n"
        for name, text in texts.items():
            (programs / name).write_text(_BEGIN.format(place=place, jobs=self.jobs) + text)
            (programs / name).chmod(0o755)
        self.environment: Mapping[str, str] = {"PATH": f"{programs}:/usr/bin:/bin", "HOME": str(place)}
        self.say("well")

    def say(self, mode: str) -> None:
        (self.place / "mode").write_text(f"{mode}\n")

    def set(self, switch: str, on: bool = True) -> None:
        """`hold`: what is submitted waits; `lose-answer`: it is taken, and the answer gets lost;
        `miss-ends`: that a job has ended is never heard."""
        (self.place / switch).touch() if on else (self.place / switch).unlink()

    @property
    def asked(self) -> int:
        """How often `squeue` was run."""
        file = self.place / "asked"
        return len(file.read_text().splitlines()) if file.exists() else 0

    def forget(self) -> None:
        """What it knows of all jobs is gone, and the numbers begin again."""
        self.jobs.rename(self.place / "forgotten")
        self.jobs.mkdir()
