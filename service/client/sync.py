"""The same client for code without an event loop: each method runs AsyncClient's of the same name to its end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from posttrain.engine.data.rows import SourceFile
from posttrain.service.client.aio import AsyncClient
from posttrain.service.client.base import DEFAULT_TIMEOUT_S
from posttrain.service.client.names import Names
from posttrain.service.client.watching import RetryNotice
from posttrain.service.proto import datasets_pb2, gates_pb2, jobs_pb2, models_pb2, spec_pb2

T = TypeVar("T")


class Client:
    """Typed calls to a posttrain server; a context manager. See AsyncClient for what each call means.

    Not for use from several threads at once, nor inside a running event loop.
    """

    def __init__(self, address: str, project: str = "default", timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        self._runner = asyncio.Runner()

        async def build() -> AsyncClient:  # a channel belongs to the loop in which it was made
            return AsyncClient(address, project, timeout_s)

        try:
            self._aio = self._runner.run(build())
        except BaseException:
            self._runner.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def address(self) -> str:
        return self._aio.address

    @property
    def names(self) -> Names:
        return self._aio.names

    def close(self) -> None:
        self._run(self._aio.close())
        self._runner.close()

    def check_health(self, timeout_s: float = 5.0) -> bool:
        return self._run(self._aio.check_health(timeout_s))

    def create_job(
        self, spec: Mapping[str, Any] | spec_pb2.JobSpec, request_id: str = "", validate_only: bool = False
    ) -> jobs_pb2.Job:
        return self._run(self._aio.create_job(spec, request_id, validate_only))

    def get_job(self, job: str) -> jobs_pb2.Job:
        return self._run(self._aio.get_job(job))

    def list_jobs(self, filter: str = "", limit: int = 0) -> list[jobs_pb2.Job]:
        return self._run(self._aio.list_jobs(filter, limit))

    def cancel_job(self, job: str, etag: str = "") -> jobs_pb2.Job:
        return self._run(self._aio.cancel_job(job, etag))

    def list_job_events(self, job: str, limit: int = 0) -> list[jobs_pb2.JobEvent]:
        return self._run(self._aio.list_job_events(job, limit))

    def list_job_logs(
        self, job: str, attempt: int = 0, page_size: int = 0, page_token: str = "", tail: bool = False
    ) -> jobs_pb2.ListJobLogsResponse:
        return self._run(self._aio.list_job_logs(job, attempt, page_size, page_token, tail))

    def list_job_metrics(self, job: str, page_size: int = 0, page_token: str = "") -> jobs_pb2.ListJobMetricsResponse:
        return self._run(self._aio.list_job_metrics(job, page_size, page_token))

    def watch(
        self,
        job: str = "",
        resume_token: str = "",
        patience_s: float = 60.0,
        on_retry: Callable[[RetryNotice], None] | None = None,
    ) -> Generator[jobs_pb2.WatchJobsResponse, None, None]:
        return self._iterate(self._aio.watch(job, resume_token, patience_s, on_retry))

    def wait_job(
        self,
        job: str,
        on_change: Callable[[jobs_pb2.Job], None] | None = None,
        patience_s: float = 60.0,
        on_retry: Callable[[RetryNotice], None] | None = None,
    ) -> jobs_pb2.Job:
        return self._run(self._aio.wait_job(job, on_change, patience_s, on_retry))

    def upload_dataset(
        self,
        dataset: str,
        path: Path,
        source: str = "",
        on_progress: Callable[[int, int], None] | None = None,
        request_id: str = "",
    ) -> datasets_pb2.DatasetVersion:
        return self._run(self._aio.upload_dataset(dataset, path, source, on_progress, request_id))

    def seal_dataset(
        self,
        name: str,
        on_bad_row: str = "fail",
        deduplicate: bool = False,
        held_out: float = 0.0,
        seed: int = 0,
        files: Sequence[SourceFile] = (),
    ) -> datasets_pb2.DatasetVersion:
        return self._run(self._aio.seal_dataset(name, on_bad_row, deduplicate, held_out, seed, files))

    def add_dataset(
        self, dataset: str, path: Path, source: str = "", on_progress: Callable[[int, int], None] | None = None
    ) -> datasets_pb2.DatasetVersion:
        return self._run(self._aio.add_dataset(dataset, path, source, on_progress))

    def get_dataset(self, ref: str) -> datasets_pb2.DatasetVersion:
        return self._run(self._aio.get_dataset(ref))

    def measure_dataset(
        self, ref: str, model: str, template: str = "", max_tokens: int = 0
    ) -> datasets_pb2.DatasetStatistics:
        return self._run(self._aio.measure_dataset(ref, model, template, max_tokens))

    def list_datasets(self, dataset: str = "", limit: int = 0) -> list[datasets_pb2.DatasetVersion]:
        return self._run(self._aio.list_datasets(dataset, limit))

    def import_model(
        self, model: str, source: str, request_id: str = "", validate_only: bool = False
    ) -> models_pb2.ModelVersion:
        return self._run(self._aio.import_model(model, source, request_id, validate_only))

    def get_model(self, ref: str) -> models_pb2.ModelVersion:
        return self._run(self._aio.get_model(ref))

    def list_models(self, model: str = "", limit: int = 0) -> list[models_pb2.ModelVersion]:
        return self._run(self._aio.list_models(model, limit))

    def get_lineage(self, ref: str = "") -> models_pb2.Lineage:
        return self._run(self._aio.get_lineage(ref))

    def list_aliases(self, model: str = "") -> list[models_pb2.Alias]:
        return self._run(self._aio.list_aliases(model))

    def list_alias_history(self, model: str, alias: str) -> list[models_pb2.AliasMove]:
        return self._run(self._aio.list_alias_history(model, alias))

    def rollback_alias(self, model: str, alias: str, reason: str, etag: str = "") -> models_pb2.Alias:
        return self._run(self._aio.rollback_alias(model, alias, reason, etag))

    def export_model(self, ref: str, folder: str) -> models_pb2.ExportModelVersionResponse:
        return self._run(self._aio.export_model(ref, folder))

    def sample_model(
        self,
        ref: str,
        turns: Sequence[tuple[str, str]],
        against: str = "",
        max_new_tokens: int = 0,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> Generator[models_pb2.SampleModelVersionResponse, None, None]:
        return self._iterate(self._aio.sample_model(ref, turns, against, max_new_tokens, temperature, seed))

    def get_eval_run(self, run: str) -> gates_pb2.EvalRun:
        return self._run(self._aio.get_eval_run(run))

    def list_eval_runs(self, version: str = "", limit: int = 0) -> list[gates_pb2.EvalRun]:
        return self._run(self._aio.list_eval_runs(version, limit))

    def list_eval_rows(self, run: str, metric: str = "", limit: int = 0) -> list[gates_pb2.EvalRow]:
        return self._run(self._aio.list_eval_rows(run, metric, limit))

    def list_suites(self) -> list[gates_pb2.Suite]:
        return self._run(self._aio.list_suites())

    def add_suite(self, manifest: str, root: str = "") -> gates_pb2.Suite:
        return self._run(self._aio.add_suite(manifest, root))

    def create_gate_run(self, candidate: str, policy: str, alias: str) -> gates_pb2.GateRun:
        return self._run(self._aio.create_gate_run(candidate, policy, alias))

    def get_gate_run(self, run: str) -> gates_pb2.GateRun:
        return self._run(self._aio.get_gate_run(run))

    def list_gate_runs(self, candidate: str = "", limit: int = 0) -> list[gates_pb2.GateRun]:
        return self._run(self._aio.list_gate_runs(candidate, limit))

    def create_promotion(
        self,
        version: str,
        alias: str,
        gate_run: str = "",
        reason: str = "",
        expected_alias_etag: str = "",
        request_id: str = "",
        validate_only: bool = False,
    ) -> gates_pb2.Promotion:
        return self._run(
            self._aio.create_promotion(version, alias, gate_run, reason, expected_alias_etag, request_id, validate_only)
        )

    def get_promotion(self, promotion: str) -> gates_pb2.Promotion:
        return self._run(self._aio.get_promotion(promotion))

    def list_promotions(self, model: str = "", limit: int = 0) -> list[gates_pb2.Promotion]:
        return self._run(self._aio.list_promotions(model, limit))

    def _run(self, call: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(call)

    def _iterate(self, items: AsyncGenerator[T, None]) -> Generator[T, None, None]:
        async def following() -> T:
            return await anext(items)

        try:
            while True:
                try:
                    item = self._run(following())
                except StopAsyncIteration:
                    return
                yield item
        finally:
            self._run(_close(items))


async def _close(items: AsyncGenerator[Any, None]) -> None:
    await items.aclose()
