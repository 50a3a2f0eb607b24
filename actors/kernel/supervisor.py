"""Starts again what crashes, with growing delays; gives up loudly on what keeps crashing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable

import trio

from actors.kernel.actor import ActorError, log
from actors.kernel.backoff import Backoff
from actors.kernel.complaint import Complaint
from actors.ports.world import Random
from actors.store.durable import is_passing


class GaveUp(ActorError):
    """An actor kept crashing; its last error is the cause. The process has to end."""


class Supervisor:
    """Starts again what crashes, with growing delays; gives up loudly on what keeps crashing."""

    def __init__(
        self,
        rng: Random,
        *,
        first_delay: float = 0.1,
        most_delay: float = 5.0,
        give_up_after: int = 8,
        calm: float = 60.0,
    ) -> None:
        """A life of `calm` seconds forgives earlier crashes; `give_up_after` crashes in a row end it all."""
        self._rng = rng
        self._first_delay = first_delay
        self._most_delay = most_delay
        self._give_up_after = give_up_after
        self._calm = calm
        self._complaint = Complaint(log)
        self.restarts: Counter[str] = Counter()
        """Lives that ended in an error, by name."""

    async def keep(
        self,
        name: str,
        life: Callable[..., Awaitable[None]],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Run `life(task_status=…)` for ever. Reports its first start through `task_status`.

        Raises `GaveUp` from the last error.
        """
        self.restarts[name] += 0
        backoff = Backoff(self._rng, first=self._first_delay, most=self._most_delay)
        first_start = _Once(task_status)
        while True:
            began = trio.current_time()
            try:
                await life(task_status=first_start)
                return
            # The one place where any error is taken: a life that ended by it is begun again, or all ends.
            except Exception as error:
                self.restarts[name] += 1
                if trio.current_time() - began >= self._calm:
                    backoff.reset()
                if is_passing(error):
                    # Nothing is wrong with it; giving up would give nobody what is wanting.
                    self._complaint.say("%s cannot work now, and is tried again: %s", name, error)
                    await trio.sleep(self._first_delay)
                    continue
                if backoff.failures + 1 >= self._give_up_after:
                    raise GaveUp(f"{name} crashed {self._give_up_after} times in a row") from error
                delay = backoff.next()
                log.error("%s crashed; it starts again in %.1f s", name, delay, exc_info=error)
            await trio.sleep(delay)


class _Once:
    """Passes on the first `started()` only: later lives report to nobody."""

    def __init__(self, task_status: trio.TaskStatus[None]) -> None:
        self._task_status = task_status
        self._done = False

    def started(self, value: None = None) -> None:
        if not self._done:
            self._done = True
            self._task_status.started(value)
