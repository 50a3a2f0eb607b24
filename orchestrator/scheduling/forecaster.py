"""Says when jobs begin and end, at little cost: one forecast at a time, in a thread, kept for as long as it
takes to have cost next to nothing, and none of a queue that nobody asks about.

How good it is is measured all the time: one job in a while is told at its submission when it begins, and
`history` keeps what became of that."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

import trio

from actors.domain.job import Job
from actors.domain.queue_excerpt import ForecastView
from actors.domain.service import ServiceLimits
from actors.domain.status import OVER, Status
from actors.kernel.actor import NoAnswer
from actors.ports.world import Clock
from orchestrator.ledger.queries import Queries
from orchestrator.scheduling.forecast import MOST_JOBS, SOON, Estimate, Forecast, Span
from orchestrator.scheduling.run_history import MOST_RUNS, RunHistory

LEAST_KEPT: Final = 1.0
"""Seconds for which a forecast is good at least."""

KEPT: Final = 20.0
"""How many times as long as it took it is kept: so forecasts take a twentieth of a core at most."""

KEPT_WITHOUT: Final = 4.0
"""The same where a job has come since that somebody asks about."""

TRIED: Final = 400.0
"""How many times as long as a forecast took nothing is tried, of what nobody asks about: a long queue's takes
half a second, and a hundred a day are enough to learn from."""


@dataclass(frozen=True, slots=True)
class _Made:
    """A forecast: when it was begun and done (monotonic), and the newest job of that time."""

    forecast: Forecast
    begun: float
    done: float
    newest: int

    def is_good(self, now: float, *, for_job: int) -> bool:
        times = KEPT if for_job <= self.newest else KEPT_WITHOUT
        return now < self.done + max(LEAST_KEPT, times * (self.done - self.begun))


class Forecaster:
    """`look` shows a service's queue and nodes; it raises NoAnswer."""

    def __init__(
        self,
        look: Callable[[str, int], Awaitable[ForecastView]],
        services: Mapping[str, ServiceLimits],
        clock: Clock,
        rng: Random,
    ) -> None:
        self.history = RunHistory(clock.now())
        self._look = look
        self._services = services
        self._clock = clock
        self._rng = rng
        self._made: dict[str, _Made] = {}
        self._one_at_a_time = trio.Lock()
        self._newest: Job | None = None
        self._news = trio.Event()

    async def load(self, queries: Queries) -> None:
        """What ran before. Raises LedgerError."""
        for service in self._services:
            self.history.ran(service, await queries.latest_runs(service, MOST_RUNS))

    def committed(self, rows: Iterable[Job]) -> None:
        """Take in what is durable now."""
        for row in rows:
            self.history.apply(row)
            if row.status is Status.QUEUED:
                self._newest = row
                self._news.set()

    async def estimate(self, rows: Sequence[Job]) -> Sequence[Estimate | None]:
        """Of each of these jobs; None of one that is over."""
        return [None if row.status in OVER or row.end is not None else await self._of(row) for row in rows]

    async def run(self) -> None:
        """Try how good it is, until cancelled."""
        while True:
            await self._news.wait()
            self._news = trio.Event()
            begun, row = trio.current_time(), self._newest
            if row is None:
                continue
            self.history.try_on(row)
            told = await self._of(row)
            if told.begins is not None:
                self.history.expect(row, told.begins, self._clock.now())
            await trio.sleep(max(LEAST_KEPT, TRIED * (trio.current_time() - begun)))

    async def _of(self, row: Job) -> Estimate:
        if unknown := self.history.explain_silence(row.service):
            return Estimate(unknown=unknown)
        try:
            made = await self._forecast(row)
        except NoAnswer:
            return Estimate(unknown="the scheduler does not answer now")
        if row.status is not Status.QUEUED:
            return self._from_now(made.forecast.going(row.id, row.service))
        unknown = made.forecast.explain_silence(row.service, row.requires)
        if not unknown and (row.id > made.newest or not made.forecast.covers(row.id)):
            unknown = SOON
        if unknown:
            return Estimate(unknown=unknown)
        found = made.forecast.queued(row.id, row.service, row.requires, row.max_runtime)
        return self._from_now(found)

    async def _forecast(self, row: Job) -> _Made:
        made = self._made.get(row.service)
        if made is not None and made.is_good(trio.current_time(), for_job=row.id):
            return made
        async with self._one_at_a_time:
            made = self._made.get(row.service)
            if made is not None and made.is_good(trio.current_time(), for_job=row.id):
                return made
            newest, begun = max(row.id, self.history.newest), trio.current_time()
            view = await self._look(row.service, MOST_JOBS)
            now = self._clock.now()
            histories = self.history.histories(now, {row.service, *view.queue.served})
            forecast = Forecast(view, self._services, histories, now, self._rng)
            await trio.to_thread.run_sync(_draw, forecast, abandon_on_cancel=True)
            made = _Made(forecast, begun, trio.current_time(), newest)
            self._made |= dict.fromkeys((row.service, *view.queue.served), made)
            return made

    def _from_now(self, told: Estimate) -> Estimate:
        """What was said a moment ago, without the past."""
        now = self._clock.now()
        return Estimate(_later(told.begins, now), _later(told.ends, now), told.unknown)


def _draw(forecast: Forecast) -> None:
    while forecast.draw():
        time.sleep(0)  # whoever serves requests goes first


def _later(span: Span | None, now: float) -> Span | None:
    if span is None:
        return None
    return Span(max(now, span.earliest), None if span.latest is None else max(now, span.latest))
