"""Calls about evaluations, gates and promotions."""

from __future__ import annotations

from posttrain.service.client.base import LONG_TIMEOUT_S, Calls, new_request_id
from posttrain.service.proto import gates_pb2, gates_pb2_grpc


class GateCalls(Calls):
    @property
    def _evaluations(self) -> gates_pb2_grpc.EvaluationsStub:
        return gates_pb2_grpc.EvaluationsStub(self._channel)

    @property
    def _gates(self) -> gates_pb2_grpc.GatesStub:
        return gates_pb2_grpc.GatesStub(self._channel)

    @property
    def _promotions(self) -> gates_pb2_grpc.PromotionsStub:
        return gates_pb2_grpc.PromotionsStub(self._channel)

    async def get_eval_run(self, run: str) -> gates_pb2.EvalRun:
        request = gates_pb2.GetEvalRunRequest(name=self.names.eval_run(run))
        return await self._call(self._evaluations.GetEvalRun, request)

    async def list_eval_runs(self, version: str = "", limit: int = 0) -> list[gates_pb2.EvalRun]:
        """Evaluations of a version (NAME@NUMBER), or all."""
        request = gates_pb2.ListEvalRunsRequest(parent=self.names.parent, version=version)
        return await self._list(self._evaluations.ListEvalRuns, request, "eval_runs", limit)

    async def list_eval_rows(self, run: str, metric: str = "", limit: int = 0) -> list[gates_pb2.EvalRow]:
        request = gates_pb2.ListEvalRowsRequest(parent=self.names.eval_run(run), metric=metric)
        return await self._list(self._evaluations.ListEvalRows, request, "rows", limit)

    async def list_suites(self) -> list[gates_pb2.Suite]:
        request = gates_pb2.ListSuitesRequest(parent=self.names.parent)
        return list((await self._call(self._evaluations.ListSuites, request)).suites)

    async def add_suite(self, manifest: str, root: str = "") -> gates_pb2.Suite:
        """Copies a suite from the server's machine into the store."""
        request = gates_pb2.AddSuiteRequest(parent=self.names.parent, manifest=manifest, root=root)
        return await self._call(self._evaluations.AddSuite, request, LONG_TIMEOUT_S)

    async def create_gate_run(self, candidate: str, policy: str, alias: str) -> gates_pb2.GateRun:
        """Computes a verdict on NAME@NUMBER from stored rows. Nothing is promoted."""
        request = gates_pb2.CreateGateRunRequest(
            parent=self.names.parent, candidate=candidate, policy=policy, alias=alias
        )
        return await self._call(self._gates.CreateGateRun, request, LONG_TIMEOUT_S)

    async def get_gate_run(self, run: str) -> gates_pb2.GateRun:
        return await self._call(self._gates.GetGateRun, gates_pb2.GetGateRunRequest(name=self.names.gate_run(run)))

    async def list_gate_runs(self, candidate: str = "", limit: int = 0) -> list[gates_pb2.GateRun]:
        request = gates_pb2.ListGateRunsRequest(parent=self.names.parent, candidate=candidate)
        return await self._list(self._gates.ListGateRuns, request, "gate_runs", limit)

    async def create_promotion(
        self,
        version: str,
        alias: str,
        gate_run: str = "",
        reason: str = "",
        expected_alias_etag: str = "",
        request_id: str = "",
        validate_only: bool = False,
    ) -> gates_pb2.Promotion:
        """Asks to move an alias to NAME@NUMBER.

        Raises:
            ClientError: FAILED_PRECONDITION with `unmet`: refused, and the refusal is on record.
        """
        request = gates_pb2.CreatePromotionRequest(
            parent=self.names.parent,
            version=version,
            alias=alias,
            gate_run=self.names.gate_run(gate_run) if gate_run else "",
            reason=reason,
            expected_alias_etag=expected_alias_etag,
            request_id=request_id or new_request_id(),
            validate_only=validate_only,
        )
        return await self._call(self._promotions.CreatePromotion, request)

    async def get_promotion(self, promotion: str) -> gates_pb2.Promotion:
        request = gates_pb2.GetPromotionRequest(name=self.names.promotion(promotion))
        return await self._call(self._promotions.GetPromotion, request)

    async def list_promotions(self, model: str = "", limit: int = 0) -> list[gates_pb2.Promotion]:
        request = gates_pb2.ListPromotionsRequest(parent=self.names.parent, model=model)
        return await self._list(self._promotions.ListPromotions, request, "promotions", limit)
