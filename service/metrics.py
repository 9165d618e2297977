"""Prometheus metrics in a registry of their own, served on a port of their own. docs/service.md lists them."""

from __future__ import annotations

from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import start_http_server

from posttrain.engine.spec import KINDS

PREFIX = "posttrain"
LOOPS = ("scheduler", "supervisor", "chains", "chain")  # the last: one chain of all
DURATIONS_S = (0.1, 0.5, 1, 5, 15, 60, 300, 900, 3600, 4 * 3600, 24 * 3600)
LATENCIES_S = (0.001, 0.005, 0.02, 0.1, 0.5, 2, 10, 60)


class Metrics:
    """All metrics of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.queue_depth = self._gauge("queue_depth", "jobs that wait for a place")
        self.jobs = self._gauge("jobs", "jobs by state and kind", "state", "kind")
        self.attempts = self._counter("attempts", "attempts begun", "kind")
        self.interruptions = self._counter("interruptions", "workers lost without an exit record", "kind")
        self.ended = self._counter("jobs_ended", "jobs that reached a terminal state", "kind", "state", "reason")
        self.phase_s = self._histogram("phase_seconds", "time spent in a phase", DURATIONS_S, "kind", "phase")
        self.tokens_per_s = self._gauge("tokens_per_second", "newest throughput of a running job", "job")
        self.rpc_s = self._histogram("rpc_seconds", "time to answer", LATENCIES_S, "method", "code")
        self.verdicts = self._counter("gate_verdicts", "gate runs of chains", "verdict")
        self.promotions = self._counter("promotions", "promotions of chains", "outcome")
        self.event_lag_s = self._gauge("event_lag_seconds", "age of a worker's newest event when it was stored", "job")
        self.watchers = self._gauge("watchers", "open watch streams")
        self.loop_errors = self._counter("loop_errors", "errors that a background loop survived", "loop")
        # An alert on a counter's increase misses a series that begins with its first event.
        for loop in LOOPS:
            self.loop_errors.labels(loop)
        for kind in KINDS:
            self.interruptions.labels(kind)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"{PREFIX}_{name}", text, labels, registry=self.registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"{PREFIX}_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(f"{PREFIX}_{name}", text, labels, buckets=buckets, registry=self.registry)

    def observe_rpc(self, method: str, code: str, seconds: float) -> None:
        self.rpc_s.labels(method.rpartition(".")[2], code).observe(seconds)

    def forget_job(self, job: str) -> None:
        """Drops the series of a job that has ended, so that their number stays bounded."""
        for gauge in (self.tokens_per_s, self.event_lag_s):
            try:
                gauge.remove(job)
            except KeyError:
                continue  # it never reported


class MetricsServer:
    """The HTTP endpoint `/metrics`; port 0 takes a free one."""

    def __init__(self, metrics: Metrics, host: str, port: int) -> None:
        server, thread = start_http_server(port, host, metrics.registry)
        self._server: WSGIServer = server
        self._thread = thread
        self.address = f"{host}:{server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
