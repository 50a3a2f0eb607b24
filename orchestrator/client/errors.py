"""What can go wrong for a client. Every message is one sentence that says what to do."""

from __future__ import annotations

from orchestrator.contract.bodies import Job
from orchestrator.errors import OrchestratorError


class ClientError(OrchestratorError):
    """The base of all of these."""


class BadInput(ClientError):
    """What is to be submitted, or where a result is to go, is not as it has to be."""


class Unreachable(ClientError):
    """No answer came, however often it was asked."""


class Untrusted(ClientError):
    """What answered did not prove that it is the orchestrator: its certificate is not trusted."""


class BadAnswer(ClientError):
    """What answered is no orchestrator, or its answer was damaged."""


class Refused(ClientError):
    """The orchestrator said no. `status` is that of HTTP, `code` the stable name of the reason ("" where the
    route has none)."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class NotFound(Refused):
    """There is no such job, node, service or file; or this orchestrator has no such route."""


class TimedOut(ClientError):
    """The job did not end in the time given. It goes on; `job` is how it stood."""

    def __init__(self, job: Job, seconds: float) -> None:
        super().__init__(
            f"job {job.id} is {job.status} after {seconds:g} s and goes on; wait again, or cancel it"
        )
        self.job = job
