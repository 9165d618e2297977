"""The Models service: versions, lineage, aliases, rollback, export, and talking to a version."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from posttrain.registry import aliases, cards, lineage, versions
from posttrain.registry.importing import import_model
from posttrain.registry.store import Transaction
from posttrain.registry.tables import VersionRecord
from posttrain.service import names, sampling, views
from posttrain.service.core import Core
from posttrain.service.proto import models_pb2, models_pb2_grpc

_PATH_CHARACTERS = 4096
log = logging.getLogger(__name__)
_REASON_CHARACTERS = 1000


class ModelsServicer(models_pb2_grpc.ModelsServicer):  # type: ignore[misc]
    def __init__(self, core: Core, sampler: sampling.Sampler) -> None:
        self._core = core
        self._sampler = sampler

    async def ImportModel(  # noqa: N802
        self, request: models_pb2.ImportModelRequest, context: Any
    ) -> models_pb2.ModelVersion:
        (project,) = names.parse(request.parent, names.PROJECT, field="parent")
        names.check_request_id(request.request_id)
        source = names.check_text("source", request.source, _PATH_CHARACTERS)
        record = await self._core.thread(
            import_model, self._core.store, project, request.model, source, request_id=request.request_id,
            validate_only=request.validate_only,
        )  # fmt: skip
        if request.validate_only:
            return views.preview_message(record)
        return await self._core.read(lambda tx: views.version_message(tx, record))

    async def GetModelVersion(  # noqa: N802
        self, request: models_pb2.GetModelVersionRequest, context: Any
    ) -> models_pb2.ModelVersion:
        project, model, selector = names.parse(request.name, names.MODEL_VERSION, names.ALIAS)
        ref = f"{model}@{selector}"
        return await self._core.read(lambda tx: views.version_message(tx, versions.get_version(tx, project, ref)))

    async def ListModelVersions(  # noqa: N802
        self, request: models_pb2.ListModelVersionsRequest, context: Any
    ) -> models_pb2.ListModelVersionsResponse:
        project, *rest = names.parse(request.parent, names.PROJECT, names.MODEL, field="parent")

        def read(tx: Transaction) -> models_pb2.ListModelVersionsResponse:
            model = rest[0] if rest else ""
            page = versions.list_versions(tx, project, model, request.page_size, request.page_token)
            found = [views.version_message(tx, record) for record in page.items]
            return models_pb2.ListModelVersionsResponse(versions=found, next_page_token=page.next_page_token)

        return await self._core.read(read)

    async def GetLineage(self, request: models_pb2.GetLineageRequest, context: Any) -> models_pb2.Lineage:  # noqa: N802
        project, *rest = names.parse(request.name, names.PROJECT, names.MODEL_VERSION, names.ALIAS)

        def read(tx: Transaction) -> models_pb2.Lineage:
            ref = versions.get_version(tx, project, f"{rest[0]}@{rest[1]}").ref if rest else ""
            found, edges = lineage.get_lineage(tx, project, ref)
            return models_pb2.Lineage(
                versions=[views.version_message(tx, record) for record in found],
                edges=[models_pb2.LineageEdge(parent=e.parent, child=e.child, kind=e.kind) for e in edges],
            )

        return await self._core.read(read)

    async def ListAliases(  # noqa: N802
        self, request: models_pb2.ListAliasesRequest, context: Any
    ) -> models_pb2.ListAliasesResponse:
        project, *rest = names.parse(request.parent, names.PROJECT, names.MODEL, field="parent")

        def read(tx: Transaction) -> models_pb2.ListAliasesResponse:
            found = aliases.list_aliases(tx, project, rest[0] if rest else "")
            return models_pb2.ListAliasesResponse(aliases=[views.alias_message(tx, record) for record in found])

        return await self._core.read(read)

    async def ListAliasHistory(  # noqa: N802
        self, request: models_pb2.ListAliasHistoryRequest, context: Any
    ) -> models_pb2.ListAliasHistoryResponse:
        project, model, alias = names.parse(request.name, names.ALIAS)

        def read(tx: Transaction) -> models_pb2.ListAliasHistoryResponse:
            aliases.get_alias(tx, project, model, alias)
            moves = aliases.alias_history(tx, project, model, alias)
            return models_pb2.ListAliasHistoryResponse(moves=[views.move_message(tx, move) for move in moves])

        return await self._core.read(read)

    async def RollbackAlias(self, request: models_pb2.RollbackAliasRequest, context: Any) -> models_pb2.Alias:  # noqa: N802
        project, model, alias = names.parse(request.name, names.ALIAS)
        reason = names.check_text("reason", request.reason, _REASON_CHARACTERS)
        record = await self._core.thread(
            aliases.rollback, self._core.store, project, model, alias, reason, etag=request.etag
        )
        log.info("rollback", extra={"model": model, "alias": alias, "reason": reason})
        self._core.bell.ring()
        return await self._core.read(lambda tx: views.alias_message(tx, record))

    async def ExportModelVersion(  # noqa: N802
        self, request: models_pb2.ExportModelVersionRequest, context: Any
    ) -> models_pb2.ExportModelVersionResponse:
        project, model, selector = names.parse(request.name, names.MODEL_VERSION, names.ALIAS)
        folder = names.check_text("folder", request.folder, _PATH_CHARACTERS)
        if not Path(folder).is_absolute():
            raise names.invalid("folder", "an absolute path: the server has another working folder than its client")
        num_bytes = await self._core.thread(
            cards.export, self._core.store, project, f"{model}@{selector}", Path(folder)
        )
        return models_pb2.ExportModelVersionResponse(folder=folder, num_bytes=num_bytes)

    async def SampleModelVersion(  # noqa: N802
        self, request: models_pb2.SampleModelVersionRequest, context: Any
    ) -> AsyncIterator[models_pb2.SampleModelVersionResponse]:
        project, model, selector = names.parse(request.name, names.MODEL_VERSION, names.ALIAS)
        asked = sampling.check_request(request)

        def read(tx: Transaction) -> list[VersionRecord]:
            refs = [f"{model}@{selector}", *([request.against] if request.against else [])]
            return [versions.get_version(tx, project, ref) for ref in refs]

        found = await self._core.read(read)
        async for answer in self._sampler.answers(project, [record.ref for record in found], asked):
            yield answer
