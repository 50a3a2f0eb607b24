"""The Python client: `Client` blocks, `AsyncClient` is for Trio and asyncio.

from orchestrator.client import Client

with Client("http://127.0.0.1:5000") as client:
    job = client.submit(["run.sh", "input.txt"], service="example", user=1)
    job = client.wait(job.id)
    client.download(job.id, "result.zip")
"""

from orchestrator.client.async_client import AsyncClient
from orchestrator.client.batch import JobRequest
from orchestrator.client.errors import (
    BadAnswer,
    BadInput,
    ClientError,
    NotFound,
    Refused,
    TimedOut,
    Unreachable,
    Untrusted,
)
from orchestrator.client.retries import Retries
from orchestrator.client.streams import Event
from orchestrator.client.sync_client import Client
from orchestrator.contract.batches import Batch
from orchestrator.contract.bodies import (
    BatchJob,
    Cancellation,
    EstimateAccuracy,
    File,
    Holder,
    Job,
    JobCallback,
    LeftOutFile,
    Node,
    Period,
    Service,
    ServiceNodes,
    Trouble,
)
from orchestrator.contract.inputs import InputChange, InputChanges

__all__ = [
    "AsyncClient",
    "BadAnswer",
    "BadInput",
    "Batch",
    "BatchJob",
    "Cancellation",
    "Client",
    "ClientError",
    "EstimateAccuracy",
    "Event",
    "File",
    "Holder",
    "InputChange",
    "InputChanges",
    "Job",
    "JobCallback",
    "JobRequest",
    "LeftOutFile",
    "Node",
    "NotFound",
    "Period",
    "Refused",
    "Retries",
    "Service",
    "ServiceNodes",
    "TimedOut",
    "Trouble",
    "Unreachable",
    "Untrusted",
]
