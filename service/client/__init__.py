"""A typed client of the service, with and without asyncio. Loads neither torch nor the database.

    with Client("127.0.0.1:50061") as client:  # data: [{"dataset": NAME@VERSION}]
        job = client.create_job({"kind": "sft", "base": "tiny-base@1", "output": "bot", "data": data})
        state = client.wait_job(job.name).state

What is where:

    aio.py       AsyncClient, made of jobs.py, assets.py (datasets, models) and gates.py: a method per RPC
    base.py      what they share
    sync.py      Client: the same for code without an event loop
    channel.py   where to, which calls are tried again
    watching.py  when a watch goes on, waits or gives up
    errors.py    ClientError
    names.py     resource names from what people write
    specs.py     a spec as a dict into its message
"""

from posttrain.service.client.aio import AsyncClient
from posttrain.service.client.base import new_request_id
from posttrain.service.client.channel import check_address
from posttrain.service.client.errors import ClientError, Unmet, UnreachableError
from posttrain.service.client.names import Names, short
from posttrain.service.client.specs import spec_to_proto
from posttrain.service.client.sync import Client
from posttrain.service.client.watching import RetryNotice, is_over

__all__ = [
    "AsyncClient",
    "Client",
    "ClientError",
    "Names",
    "RetryNotice",
    "Unmet",
    "UnreachableError",
    "check_address",
    "connect",
    "is_over",
    "new_request_id",
    "short",
    "spec_to_proto",
]


def connect(address: str, project: str = "default") -> AsyncClient:
    """An asyncio client of the server at host:port. Call it inside the event loop; nothing is sent yet."""
    return AsyncClient(address, project)
