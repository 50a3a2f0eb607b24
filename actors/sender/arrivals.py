"""Since when jobs wait, with few words for many of them."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from typing import Final

MOST: Final = 4096
"""Marks. When there are as many, neighbours become one where the time that has passed is a hundred times what
lies between them: fewer than 2,000 stay of a year."""


class Arrivals:
    """Ids ascend, and so do the times at which they come: a mark says up to which id they had come, and when
    the first of these did. Jobs that come within `step` seconds share one."""

    def __init__(self, step: float) -> None:
        self._step = step
        self._ids = array("q")
        self._times = array("d")

    def note(self, job_id: int, now: float) -> None:
        """A job is here. One that is older than the newest came with those that it is among."""
        if not self._ids or job_id > self._ids[-1]:
            self._add(job_id, now, self._step)
            if len(self._ids) == MOST:
                marks = list(zip(self._ids, self._times, strict=True))
                self._ids, self._times = array("q"), array("d")
                for upto, at in marks:
                    self._add(upto, at, (now - at) / 100)

    def _add(self, upto: int, at: float, step: float) -> None:
        if self._ids and at < self._times[-1] + step:
            self._ids[-1] = upto
        else:
            self._ids.append(upto)
            self._times.append(at)

    def since(self, job_id: int, now: float) -> float:
        """When it came; `now` for one that has not."""
        at = bisect_left(self._ids, job_id)
        return self._times[at] if at < len(self._times) else now
