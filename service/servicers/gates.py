"""The Evaluations, Gates and Promotions services: the evidence, the verdict, and the move of an alias."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from posttrain.registry import evaluations, gates, promotion, staleness, suites
from posttrain.registry.store import Transaction
from posttrain.service import names, views
from posttrain.service.core import Core
from posttrain.service.proto import gates_pb2, gates_pb2_grpc

log = logging.getLogger(__name__)
_REASON_CHARACTERS = 1000
_PATH_CHARACTERS = 4096


class EvaluationsServicer(gates_pb2_grpc.EvaluationsServicer):  # type: ignore[misc]
    def __init__(self, core: Core) -> None:
        self._core = core

    async def GetEvalRun(self, request: gates_pb2.GetEvalRunRequest, context: Any) -> gates_pb2.EvalRun:  # noqa: N802
        project, run = names.parse(request.name, names.EVAL_RUN)
        return await self._core.read(lambda tx: views.eval_run_message(tx, evaluations.get_run(tx, project, run)))

    async def ListEvalRuns(  # noqa: N802
        self, request: gates_pb2.ListEvalRunsRequest, context: Any
    ) -> gates_pb2.ListEvalRunsResponse:
        (project,) = names.parse(request.parent, names.PROJECT, field="parent")

        def read(tx: Transaction) -> gates_pb2.ListEvalRunsResponse:
            page = evaluations.list_runs(tx, project, request.version, request.page_size, request.page_token)
            found = [views.eval_run_message(tx, record) for record in page.items]
            return gates_pb2.ListEvalRunsResponse(eval_runs=found, next_page_token=page.next_page_token)

        return await self._core.read(read)

    async def ListEvalRows(  # noqa: N802
        self, request: gates_pb2.ListEvalRowsRequest, context: Any
    ) -> gates_pb2.ListEvalRowsResponse:
        project, run = names.parse(request.parent, names.EVAL_RUN, field="parent")
        page = await self._core.thread(
            evaluations.list_rows,
            self._core.store, project, run, request.metric, request.page_size, request.page_token,
        )  # fmt: skip
        rows = [views.row_message(row) for row in page.items]
        return gates_pb2.ListEvalRowsResponse(rows=rows, next_page_token=page.next_page_token)

    async def ListSuites(  # noqa: N802
        self, request: gates_pb2.ListSuitesRequest, context: Any
    ) -> gates_pb2.ListSuitesResponse:
        (project,) = names.parse(request.parent, names.PROJECT, field="parent")
        await self._core.ensure_suites(project)
        found = await self._core.read(lambda tx: suites.list_suites(tx, project))
        return gates_pb2.ListSuitesResponse(suites=[views.suite_message(record) for record in found])

    async def AddSuite(self, request: gates_pb2.AddSuiteRequest, context: Any) -> gates_pb2.Suite:  # noqa: N802
        (project,) = names.parse(request.parent, names.PROJECT, field="parent")
        manifest = names.check_text("manifest", request.manifest, _PATH_CHARACTERS)
        root = names.check_text("root", request.root, _PATH_CHARACTERS)
        await self._core.ensure_suites(project)
        record = await self._core.thread(suites.add_suite, self._core.store, project, Path(manifest), root=root)
        return views.suite_message(record)


class GatesServicer(gates_pb2_grpc.GatesServicer):  # type: ignore[misc]
    def __init__(self, core: Core) -> None:
        self._core = core

    async def CreateGateRun(self, request: gates_pb2.CreateGateRunRequest, context: Any) -> gates_pb2.GateRun:  # noqa: N802
        (project,) = names.parse(request.parent, names.PROJECT, field="parent")
        await self._core.ensure_suites(project)
        policy = await self._core.thread(self._core.policy, request.policy or "default")
        record = await self._core.thread(
            gates.create_gate_run,
            self._core.store, project, request.candidate, policy, request.alias or "production",
        )  # fmt: skip
        self._core.metrics.verdicts.labels(record.verdict).inc()
        log.info("verdict", extra={"gate_run": record.id, "verdict": record.verdict, "policy": record.policy})
        return await self._core.read(lambda tx: views.gate_message(tx, record))

    async def GetGateRun(self, request: gates_pb2.GetGateRunRequest, context: Any) -> gates_pb2.GateRun:  # noqa: N802
        project, run = names.parse(request.name, names.GATE_RUN)

        def read(tx: Transaction) -> gates_pb2.GateRun:
            record = gates.get_gate_run(tx, project, run)
            return views.gate_message(tx, record, staleness.stale_items(tx, record, self._core.policy))

        return await self._core.read(read)

    async def ListGateRuns(  # noqa: N802
        self, request: gates_pb2.ListGateRunsRequest, context: Any
    ) -> gates_pb2.ListGateRunsResponse:
        (project,) = names.parse(request.parent, names.PROJECT, field="parent")

        def read(tx: Transaction) -> gates_pb2.ListGateRunsResponse:
            page = gates.list_gate_runs(tx, project, request.candidate, request.page_size, request.page_token)
            found = [views.gate_message(tx, record) for record in page.items]
            return gates_pb2.ListGateRunsResponse(gate_runs=found, next_page_token=page.next_page_token)

        return await self._core.read(read)


class PromotionsServicer(gates_pb2_grpc.PromotionsServicer):  # type: ignore[misc]
    def __init__(self, core: Core) -> None:
        self._core = core

    async def CreatePromotion(  # noqa: N802
        self, request: gates_pb2.CreatePromotionRequest, context: Any
    ) -> gates_pb2.Promotion:
        (project,) = names.parse(request.parent, names.PROJECT, field="parent")
        names.check_request_id(request.request_id)
        reason = names.check_text("reason", request.reason, _REASON_CHARACTERS)
        gate_run = ""
        if request.gate_run:
            owner, gate_run = names.parse(request.gate_run, names.GATE_RUN, field="gate_run")
            if owner != project:
                raise names.invalid("gate_run", "a gate run of another project")
        record = await self._core.thread(
            promotion.promote,
            self._core.store, project, request.version, request.alias or "production", gate_run=gate_run, reason=reason,
            expected_etag=request.expected_alias_etag, request_id=request.request_id,
            validate_only=request.validate_only, policies=self._core.policy,
        )  # fmt: skip
        self._core.bell.ring()
        if not request.validate_only:
            self._core.metrics.promotions.labels(record.outcome).inc()
            moved = {"promotion": record.id, "outcome": record.outcome, "model": record.model, "alias": record.alias}
            log.info("promotion", extra=moved)
            promotion.raise_if_refused(record)
        return await self._core.read(lambda tx: views.promotion_message(tx, record))

    async def GetPromotion(self, request: gates_pb2.GetPromotionRequest, context: Any) -> gates_pb2.Promotion:  # noqa: N802
        project, number = names.parse(request.name, names.PROMOTION)
        return await self._core.read(
            lambda tx: views.promotion_message(tx, promotion.get_promotion(tx, project, number))
        )

    async def ListPromotions(  # noqa: N802
        self, request: gates_pb2.ListPromotionsRequest, context: Any
    ) -> gates_pb2.ListPromotionsResponse:
        (project,) = names.parse(request.parent, names.PROJECT, field="parent")

        def read(tx: Transaction) -> gates_pb2.ListPromotionsResponse:
            page = promotion.list_promotions(tx, project, request.model, request.page_size, request.page_token)
            found = [views.promotion_message(tx, record) for record in page.items]
            return gates_pb2.ListPromotionsResponse(promotions=found, next_page_token=page.next_page_token)

        return await self._core.read(read)
