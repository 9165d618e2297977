"""What every group of calls shares: a channel, names, and the two kinds of unary call."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import grpc

from posttrain.service.client.channel import open_channel
from posttrain.service.client.errors import from_rpc_error
from posttrain.service.client.names import Names

T = TypeVar("T")
DEFAULT_TIMEOUT_S: Final = 30.0
# Calls that copy, hash or generate: as long as the work takes, but not for ever.
LONG_TIMEOUT_S: Final = 3600.0


class Calls:
    """A connection. `_call` and `_list` turn every failure into a ClientError."""

    def __init__(self, address: str, project: str = "default", timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        self.address = address
        self.names = Names(project)
        self._timeout_s = timeout_s
        self._channel = open_channel(address)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self._channel.close()

    async def _call(self, method: Callable[..., Awaitable[T]], request: Any, timeout_s: float = 0.0) -> T:
        try:
            return await method(request, timeout=timeout_s or self._timeout_s)
        except grpc.RpcError as error:
            raise from_rpc_error(error, self.address) from error

    async def _list(self, method: Any, request: Any, field: str, limit: int) -> list[Any]:
        records: list[Any] = []
        page_size = min(limit, 1000) if limit else 500
        while True:
            request.page_size = page_size
            answer = await self._call(method, request)
            records += getattr(answer, field)
            if limit and len(records) >= limit:
                return records[:limit]
            if not answer.next_page_token or answer.next_page_token == request.page_token:
                return records
            request.page_token = answer.next_page_token


def new_request_id() -> str:
    """A fresh id for a create call; pass the same one again to repeat a call whose answer was lost."""
    return str(uuid.uuid4())
