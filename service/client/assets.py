"""Calls about datasets and models."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Final

import grpc

from posttrain.engine.data.rows import SourceFile
from posttrain.service.client.base import LONG_TIMEOUT_S, Calls, new_request_id
from posttrain.service.client.errors import from_rpc_error
from posttrain.service.proto import datasets_pb2, datasets_pb2_grpc, models_pb2, models_pb2_grpc

CHUNK_BYTES: Final = 1 << 20


class DatasetCalls(Calls):
    @property
    def _datasets(self) -> datasets_pb2_grpc.DatasetsStub:
        return datasets_pb2_grpc.DatasetsStub(self._channel)

    async def upload_dataset(
        self,
        dataset: str,
        path: Path,
        source: str = "",
        on_progress: Callable[[int, int], None] | None = None,
        request_id: str = "",
    ) -> datasets_pb2.DatasetVersion:
        """Sends a file in chunks; the answer is a version that is not sealed yet.

        Args:
            on_progress: called with (bytes sent, bytes in all) after each chunk.

        Raises:
            OSError: the file cannot be read.
        """
        file = await asyncio.to_thread(open, path, "rb")
        try:
            total = os.fstat(file.fileno()).st_size
            header = datasets_pb2.UploadHeader(
                parent=self.names.parent,
                dataset=dataset,
                request_id=request_id or new_request_id(),
                source=source,
                num_bytes=total,
            )

            async def parts() -> AsyncIterator[datasets_pb2.UploadDatasetRequest]:
                yield datasets_pb2.UploadDatasetRequest(header=header)
                sent = 0
                while chunk := await asyncio.to_thread(file.read, CHUNK_BYTES):
                    yield datasets_pb2.UploadDatasetRequest(chunk=chunk)
                    sent += len(chunk)
                    if on_progress is not None:
                        on_progress(sent, total)

            return await self._call(self._datasets.UploadDataset, parts(), LONG_TIMEOUT_S)
        finally:
            file.close()

    async def seal_dataset(
        self,
        name: str,
        on_bad_row: str = "fail",
        deduplicate: bool = False,
        held_out: float = 0.0,
        seed: int = 0,
        files: Sequence[SourceFile] = (),
    ) -> datasets_pb2.DatasetVersion:
        """Validates every row of an uploaded version and makes it immutable.

        Args:
            on_bad_row: "fail" seals nothing, "skip" leaves bad rows out; the answer counts them.
            deduplicate: leave out rows that mean the same as an earlier one.
            held_out: share of prompts whose rows become a dataset of their own; the answer names it.
            files: what the upload was joined of (`engine.data.sources.prepared`), so that rows are named by file.
        """
        request = datasets_pb2.SealDatasetRequest(
            name=self.names.dataset_version(name),
            on_bad_row=on_bad_row,
            deduplicate=deduplicate,
            held_out=held_out,
            seed=seed,
            files=[datasets_pb2.SourceFile(name=file.name, num_rows=file.num_rows) for file in files],
        )
        return await self._call(self._datasets.SealDataset, request, LONG_TIMEOUT_S)

    async def add_dataset(
        self,
        dataset: str,
        path: Path,
        source: str = "",
        on_progress: Callable[[int, int], None] | None = None,
    ) -> datasets_pb2.DatasetVersion:
        """Uploads a file and seals it."""
        uploaded = await self.upload_dataset(dataset, path, source, on_progress)
        return await self.seal_dataset(uploaded.name)

    async def get_dataset(self, ref: str) -> datasets_pb2.DatasetVersion:
        request = datasets_pb2.GetDatasetVersionRequest(name=self.names.dataset_version(ref))
        return await self._call(self._datasets.GetDatasetVersion, request)

    async def measure_dataset(
        self, ref: str, model: str, template: str = "", max_tokens: int = 0
    ) -> datasets_pb2.DatasetStatistics:
        """Lengths in tokens, what a limit would cut, and how much is trained, as a job on this model would see it."""
        request = datasets_pb2.MeasureDatasetRequest(
            name=self.names.dataset_version(ref),
            model=model if "@" in model else f"{model}@latest",
            template=template,
            max_tokens=max_tokens,
        )
        return await self._call(self._datasets.MeasureDataset, request, LONG_TIMEOUT_S)

    async def list_datasets(self, dataset: str = "", limit: int = 0) -> list[datasets_pb2.DatasetVersion]:
        """Versions of one dataset, or of all."""
        parent = self.names.dataset(dataset) if dataset else self.names.parent
        request = datasets_pb2.ListDatasetVersionsRequest(parent=parent)
        return await self._list(self._datasets.ListDatasetVersions, request, "versions", limit)


class ModelCalls(Calls):
    @property
    def _models(self) -> models_pb2_grpc.ModelsStub:
        return models_pb2_grpc.ModelsStub(self._channel)

    async def import_model(
        self, model: str, source: str, request_id: str = "", validate_only: bool = False
    ) -> models_pb2.ModelVersion:
        """Registers a base: a folder or .gguf file on the server's machine, a hub id, or "builtin:tiny-base"."""
        request = models_pb2.ImportModelRequest(
            parent=self.names.parent,
            model=model,
            source=source,
            request_id=request_id or new_request_id(),
            validate_only=validate_only,
        )
        return await self._call(self._models.ImportModel, request, LONG_TIMEOUT_S)

    async def get_model(self, ref: str) -> models_pb2.ModelVersion:
        request = models_pb2.GetModelVersionRequest(name=self.names.model_version(ref))
        return await self._call(self._models.GetModelVersion, request)

    async def list_models(self, model: str = "", limit: int = 0) -> list[models_pb2.ModelVersion]:
        """Versions of one model, or of all."""
        parent = self.names.model(model) if model else self.names.parent
        request = models_pb2.ListModelVersionsRequest(parent=parent)
        return await self._list(self._models.ListModelVersions, request, "versions", limit)

    async def get_lineage(self, ref: str = "") -> models_pb2.Lineage:
        """Ancestors and descendants of a version, or all of the project."""
        name = self.names.model_version(ref) if ref else self.names.parent
        return await self._call(self._models.GetLineage, models_pb2.GetLineageRequest(name=name))

    async def list_aliases(self, model: str = "") -> list[models_pb2.Alias]:
        parent = self.names.model(model) if model else self.names.parent
        answer = await self._call(self._models.ListAliases, models_pb2.ListAliasesRequest(parent=parent))
        return list(answer.aliases)

    async def list_alias_history(self, model: str, alias: str) -> list[models_pb2.AliasMove]:
        """Newest first."""
        request = models_pb2.ListAliasHistoryRequest(name=self.names.alias(model, alias))
        return list((await self._call(self._models.ListAliasHistory, request)).moves)

    async def rollback_alias(self, model: str, alias: str, reason: str, etag: str = "") -> models_pb2.Alias:
        """Moves an alias back to the version it named before. Pass the etag seen, so that two clicks move it once."""
        request = models_pb2.RollbackAliasRequest(name=self.names.alias(model, alias), reason=reason, etag=etag)
        return await self._call(self._models.RollbackAlias, request)

    async def export_model(self, ref: str, folder: str) -> models_pb2.ExportModelVersionResponse:
        """Writes a Hugging Face folder on the server's machine."""
        request = models_pb2.ExportModelVersionRequest(name=self.names.model_version(ref), folder=folder)
        return await self._call(self._models.ExportModelVersion, request, LONG_TIMEOUT_S)

    async def sample_model(
        self,
        ref: str,
        turns: Sequence[tuple[str, str]],
        against: str = "",
        max_new_tokens: int = 0,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> AsyncGenerator[models_pb2.SampleModelVersionResponse, None]:
        """Answers to a conversation of (role, content) turns, of one version or, with `against`, of two."""
        request = models_pb2.SampleModelVersionRequest(
            name=self.names.model_version(ref),
            against=against,
            turns=[models_pb2.ChatTurn(role=role, content=content) for role, content in turns],
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            seed=seed,
        )
        call = self._models.SampleModelVersion(request, timeout=LONG_TIMEOUT_S)
        try:
            async for answer in call:
                yield answer
        except grpc.RpcError as error:
            raise from_rpc_error(error, self.address) from error
        finally:
            call.cancel()
