"""The Datasets service: a streamed upload, sealing, and what there is."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import AsyncIterator, Iterator
from typing import Any

from posttrain.engine.data.rows import MAX_NAME, SourceFile
from posttrain.engine.data.sources import MAX_FILES
from posttrain.engine.errors import CancelledError
from posttrain.registry import datasets, sealing
from posttrain.registry.tables import DatasetVersionRecord
from posttrain.service import names, views
from posttrain.service.core import Core
from posttrain.service.measuring import MAX_CONTEXT, Measurer
from posttrain.service.proto import datasets_pb2, datasets_pb2_grpc

MAX_CHUNK_BYTES = 2**20
_WAITING_CHUNKS = 8
_SETTLE_S = 0.05


class DatasetsServicer(datasets_pb2_grpc.DatasetsServicer):  # type: ignore[misc]
    def __init__(self, core: Core, measurer: Measurer) -> None:
        self._core = core
        self._measurer = measurer

    async def UploadDataset(  # noqa: N802
        self, requests: AsyncIterator[datasets_pb2.UploadDatasetRequest], context: Any
    ) -> datasets_pb2.DatasetVersion:
        first = await anext(aiter(requests), None)
        if first is None or first.WhichOneof("part") != "header":
            raise names.invalid("header", "the first message of an upload is its header")
        header = first.header
        (project,) = names.parse(header.parent, names.PROJECT, field="header.parent")
        names.check_request_id(header.request_id)
        source = names.check_text("header.source", header.source, MAX_NAME)
        declared = header.num_bytes if header.HasField("num_bytes") else -1
        pipe = _Pipe()

        def store() -> DatasetVersionRecord:
            try:
                return datasets.upload(
                    self._core.store, project, header.dataset, pipe.chunks(), source=source,
                    request_id=header.request_id, max_bytes=self._core.settings.max_upload_bytes,
                )  # fmt: skip
            finally:
                pipe.close()

        writing = asyncio.ensure_future(self._core.thread(store))
        received = 0
        try:
            async for request in requests:
                chunk = _chunk(request)
                received += len(chunk)
                # A store that has failed takes nothing more: its error is the answer.
                if not await self._core.thread(pipe.put, chunk):
                    break
            else:
                # gRPC ends the stream in the same way when a message is refused, and cancels this call a moment later.
                await asyncio.sleep(_SETTLE_S)
                if declared not in (-1, received):
                    raise names.invalid("header.num_bytes", f"{declared} bytes were announced and {received} came")
                await self._core.thread(pipe.put, None)
        except BaseException:
            # The sender went away or sent something else: the writer must not take what came for the whole.
            pipe.abort()
            await asyncio.shield(asyncio.gather(writing, return_exceptions=True))
            raise
        record = await writing
        self._core.bell.ring()
        return views.dataset_message(record)

    async def SealDataset(  # noqa: N802
        self, request: datasets_pb2.SealDatasetRequest, context: Any
    ) -> datasets_pb2.DatasetVersion:
        project, ref = _ref(request.name)
        options = _seal_options(request)
        sealed = await self._core.thread(sealing.seal, self._core.store, project, ref, options)
        self._core.bell.ring()
        return views.dataset_message(sealed)

    async def GetDatasetVersion(  # noqa: N802
        self, request: datasets_pb2.GetDatasetVersionRequest, context: Any
    ) -> datasets_pb2.DatasetVersion:
        project, ref = _ref(request.name)
        return views.dataset_message(await self._core.read(lambda tx: datasets.get_version(tx, project, ref)))

    async def MeasureDataset(  # noqa: N802
        self, request: datasets_pb2.MeasureDatasetRequest, context: Any
    ) -> datasets_pb2.DatasetStatistics:
        project, ref = _ref(request.name)
        if not 0 <= request.max_tokens <= MAX_CONTEXT:
            raise names.invalid("max_tokens", "must be at least 0, which is the model's context")
        return await self._measurer.measure(project, ref, request.model, request.template, request.max_tokens)

    async def ListDatasetVersions(  # noqa: N802
        self, request: datasets_pb2.ListDatasetVersionsRequest, context: Any
    ) -> datasets_pb2.ListDatasetVersionsResponse:
        project, *rest = names.parse(request.parent, names.PROJECT, names.DATASET, field="parent")
        name = rest[0] if rest else ""
        page = await self._core.read(
            lambda tx: datasets.list_versions(tx, project, name, request.page_size, request.page_token)
        )
        found = [views.dataset_message(record) for record in page.items]
        return datasets_pb2.ListDatasetVersionsResponse(versions=found, next_page_token=page.next_page_token)


def _ref(name: str) -> tuple[str, str]:
    project, dataset, version = names.parse(name, names.DATASET_VERSION)
    return project, f"{dataset}@{version}"


def _seal_options(request: datasets_pb2.SealDatasetRequest) -> sealing.SealOptions:
    if request.on_bad_row not in ("", "fail", "skip"):
        raise names.invalid("on_bad_row", "must be fail or skip")
    if not 0 <= request.held_out < 1:
        raise names.invalid("held_out", "must be at least 0 and below 1")
    if len(request.files) > MAX_FILES:
        raise names.invalid("files", f"{len(request.files)} files; at most {MAX_FILES}")
    files = []
    for index, file in enumerate(request.files):
        if file.num_rows < 0:
            raise names.invalid(f"files[{index}].num_rows", "must be at least 0")
        files.append(SourceFile(names.check_text(f"files[{index}].name", file.name, MAX_NAME), file.num_rows))
    return sealing.SealOptions(
        on_bad_row="skip" if request.on_bad_row == "skip" else "fail",
        deduplicate=request.deduplicate,
        held_out=request.held_out,
        seed=request.seed,
        files=tuple(files),
    )


def _chunk(request: datasets_pb2.UploadDatasetRequest) -> bytes:
    if request.WhichOneof("part") != "chunk":
        raise names.invalid("chunk", "after the header an upload has chunks only")
    if len(request.chunk) > MAX_CHUNK_BYTES:
        raise names.invalid("chunk", f"{len(request.chunk)} bytes; at most {MAX_CHUNK_BYTES} in a message")
    return bytes(request.chunk)


class _Pipe:
    """Hands chunks from the event loop to the thread that stores them: bounded, so a fast sender waits for the disk."""

    def __init__(self) -> None:
        self._queue: queue.Queue[bytes | None] = queue.Queue(_WAITING_CHUNKS)
        self._is_closed = False
        self._is_aborted = False

    def put(self, chunk: bytes | None) -> bool:
        """Waits for room; False once nobody reads any more. None: that was all."""
        while not (self._is_closed or self._is_aborted):
            try:
                self._queue.put(chunk, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def chunks(self) -> Iterator[bytes]:
        """What was put, until None.

        Raises:
            CancelledError: the upload was aborted; what reads this stores nothing then.
        """
        while True:
            try:
                chunk = self._queue.get(timeout=0.1)
            except queue.Empty:
                chunk = b""
            if self._is_aborted:
                raise CancelledError("the upload was broken off")
            if chunk is None:
                return
            if chunk:
                yield chunk

    def abort(self) -> None:
        self._is_aborted = True

    def close(self) -> None:
        self._is_closed = True
