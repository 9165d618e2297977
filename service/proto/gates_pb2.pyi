import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Verdict(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    VERDICT_UNSPECIFIED: _ClassVar[Verdict]
    PASS: _ClassVar[Verdict]
    FAIL: _ClassVar[Verdict]
    INCONCLUSIVE: _ClassVar[Verdict]
VERDICT_UNSPECIFIED: Verdict
PASS: Verdict
FAIL: Verdict
INCONCLUSIVE: Verdict

class MetricScore(_message.Message):
    __slots__ = ("metric", "shard", "n", "score", "low", "high", "level")
    METRIC_FIELD_NUMBER: _ClassVar[int]
    SHARD_FIELD_NUMBER: _ClassVar[int]
    N_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    LOW_FIELD_NUMBER: _ClassVar[int]
    HIGH_FIELD_NUMBER: _ClassVar[int]
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    metric: str
    shard: str
    n: int
    score: float
    low: float
    high: float
    level: float
    def __init__(self, metric: _Optional[str] = ..., shard: _Optional[str] = ..., n: _Optional[int] = ..., score: _Optional[float] = ..., low: _Optional[float] = ..., high: _Optional[float] = ..., level: _Optional[float] = ...) -> None: ...

class EvalRun(_message.Message):
    __slots__ = ("name", "job", "version", "version_digest", "suites", "template", "template_digest", "shard", "rows_digest", "num_rows", "scores", "create_time", "repeat")
    NAME_FIELD_NUMBER: _ClassVar[int]
    JOB_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    VERSION_DIGEST_FIELD_NUMBER: _ClassVar[int]
    SUITES_FIELD_NUMBER: _ClassVar[int]
    TEMPLATE_FIELD_NUMBER: _ClassVar[int]
    TEMPLATE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    SHARD_FIELD_NUMBER: _ClassVar[int]
    ROWS_DIGEST_FIELD_NUMBER: _ClassVar[int]
    NUM_ROWS_FIELD_NUMBER: _ClassVar[int]
    SCORES_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    REPEAT_FIELD_NUMBER: _ClassVar[int]
    name: str
    job: str
    version: str
    version_digest: str
    suites: _containers.RepeatedScalarFieldContainer[str]
    template: str
    template_digest: str
    shard: str
    rows_digest: str
    num_rows: int
    scores: _containers.RepeatedCompositeFieldContainer[MetricScore]
    create_time: _timestamp_pb2.Timestamp
    repeat: bool
    def __init__(self, name: _Optional[str] = ..., job: _Optional[str] = ..., version: _Optional[str] = ..., version_digest: _Optional[str] = ..., suites: _Optional[_Iterable[str]] = ..., template: _Optional[str] = ..., template_digest: _Optional[str] = ..., shard: _Optional[str] = ..., rows_digest: _Optional[str] = ..., num_rows: _Optional[int] = ..., scores: _Optional[_Iterable[_Union[MetricScore, _Mapping]]] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., repeat: _Optional[bool] = ...) -> None: ...

class GetEvalRunRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class ListEvalRunsRequest(_message.Message):
    __slots__ = ("parent", "version", "page_size", "page_token")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    parent: str
    version: str
    page_size: int
    page_token: str
    def __init__(self, parent: _Optional[str] = ..., version: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListEvalRunsResponse(_message.Message):
    __slots__ = ("eval_runs", "next_page_token")
    EVAL_RUNS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    eval_runs: _containers.RepeatedCompositeFieldContainer[EvalRun]
    next_page_token: str
    def __init__(self, eval_runs: _Optional[_Iterable[_Union[EvalRun, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class EvalRow(_message.Message):
    __slots__ = ("example_id", "suite", "metric", "shard", "score", "answer", "reason", "stop_reason", "scorer_error")
    EXAMPLE_ID_FIELD_NUMBER: _ClassVar[int]
    SUITE_FIELD_NUMBER: _ClassVar[int]
    METRIC_FIELD_NUMBER: _ClassVar[int]
    SHARD_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    STOP_REASON_FIELD_NUMBER: _ClassVar[int]
    SCORER_ERROR_FIELD_NUMBER: _ClassVar[int]
    example_id: str
    suite: str
    metric: str
    shard: str
    score: float
    answer: str
    reason: str
    stop_reason: str
    scorer_error: str
    def __init__(self, example_id: _Optional[str] = ..., suite: _Optional[str] = ..., metric: _Optional[str] = ..., shard: _Optional[str] = ..., score: _Optional[float] = ..., answer: _Optional[str] = ..., reason: _Optional[str] = ..., stop_reason: _Optional[str] = ..., scorer_error: _Optional[str] = ...) -> None: ...

class ListEvalRowsRequest(_message.Message):
    __slots__ = ("parent", "metric", "page_size", "page_token")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    METRIC_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    parent: str
    metric: str
    page_size: int
    page_token: str
    def __init__(self, parent: _Optional[str] = ..., metric: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListEvalRowsResponse(_message.Message):
    __slots__ = ("rows", "next_page_token")
    ROWS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    rows: _containers.RepeatedCompositeFieldContainer[EvalRow]
    next_page_token: str
    def __init__(self, rows: _Optional[_Iterable[_Union[EvalRow, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class Suite(_message.Message):
    __slots__ = ("name", "version", "digest", "description", "metrics", "num_rows")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    NUM_ROWS_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    digest: str
    description: str
    metrics: _containers.RepeatedScalarFieldContainer[str]
    num_rows: int
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ..., digest: _Optional[str] = ..., description: _Optional[str] = ..., metrics: _Optional[_Iterable[str]] = ..., num_rows: _Optional[int] = ...) -> None: ...

class ListSuitesRequest(_message.Message):
    __slots__ = ("parent",)
    PARENT_FIELD_NUMBER: _ClassVar[int]
    parent: str
    def __init__(self, parent: _Optional[str] = ...) -> None: ...

class ListSuitesResponse(_message.Message):
    __slots__ = ("suites",)
    SUITES_FIELD_NUMBER: _ClassVar[int]
    suites: _containers.RepeatedCompositeFieldContainer[Suite]
    def __init__(self, suites: _Optional[_Iterable[_Union[Suite, _Mapping]]] = ...) -> None: ...

class AddSuiteRequest(_message.Message):
    __slots__ = ("parent", "manifest", "root")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_FIELD_NUMBER: _ClassVar[int]
    ROOT_FIELD_NUMBER: _ClassVar[int]
    parent: str
    manifest: str
    root: str
    def __init__(self, parent: _Optional[str] = ..., manifest: _Optional[str] = ..., root: _Optional[str] = ...) -> None: ...

class GateReason(_message.Message):
    __slots__ = ("code", "metric", "baseline", "message")
    CODE_FIELD_NUMBER: _ClassVar[int]
    METRIC_FIELD_NUMBER: _ClassVar[int]
    BASELINE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    code: str
    metric: str
    baseline: str
    message: str
    def __init__(self, code: _Optional[str] = ..., metric: _Optional[str] = ..., baseline: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...

class GateResult(_message.Message):
    __slots__ = ("metric", "baseline_name", "n", "baseline", "candidate", "difference", "low", "high", "level", "rule", "verdict", "clusters")
    METRIC_FIELD_NUMBER: _ClassVar[int]
    BASELINE_NAME_FIELD_NUMBER: _ClassVar[int]
    N_FIELD_NUMBER: _ClassVar[int]
    BASELINE_FIELD_NUMBER: _ClassVar[int]
    CANDIDATE_FIELD_NUMBER: _ClassVar[int]
    DIFFERENCE_FIELD_NUMBER: _ClassVar[int]
    LOW_FIELD_NUMBER: _ClassVar[int]
    HIGH_FIELD_NUMBER: _ClassVar[int]
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    RULE_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    CLUSTERS_FIELD_NUMBER: _ClassVar[int]
    metric: str
    baseline_name: str
    n: int
    baseline: float
    candidate: float
    difference: float
    low: float
    high: float
    level: float
    rule: str
    verdict: Verdict
    clusters: int
    def __init__(self, metric: _Optional[str] = ..., baseline_name: _Optional[str] = ..., n: _Optional[int] = ..., baseline: _Optional[float] = ..., candidate: _Optional[float] = ..., difference: _Optional[float] = ..., low: _Optional[float] = ..., high: _Optional[float] = ..., level: _Optional[float] = ..., rule: _Optional[str] = ..., verdict: _Optional[_Union[Verdict, str]] = ..., clusters: _Optional[int] = ...) -> None: ...

class GateRun(_message.Message):
    __slots__ = ("name", "verdict", "candidate", "candidate_digest", "baselines", "policy", "policy_digest", "reasons", "metrics", "suites", "unseen", "improved", "report_json", "report_digest", "eval_runs", "create_time", "alias", "explanation", "attempt", "attempts_budget", "repeat_run", "stale")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    CANDIDATE_FIELD_NUMBER: _ClassVar[int]
    CANDIDATE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    BASELINES_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    POLICY_DIGEST_FIELD_NUMBER: _ClassVar[int]
    REASONS_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    SUITES_FIELD_NUMBER: _ClassVar[int]
    UNSEEN_FIELD_NUMBER: _ClassVar[int]
    IMPROVED_FIELD_NUMBER: _ClassVar[int]
    REPORT_JSON_FIELD_NUMBER: _ClassVar[int]
    REPORT_DIGEST_FIELD_NUMBER: _ClassVar[int]
    EVAL_RUNS_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    ALIAS_FIELD_NUMBER: _ClassVar[int]
    EXPLANATION_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    ATTEMPTS_BUDGET_FIELD_NUMBER: _ClassVar[int]
    REPEAT_RUN_FIELD_NUMBER: _ClassVar[int]
    STALE_FIELD_NUMBER: _ClassVar[int]
    name: str
    verdict: Verdict
    candidate: str
    candidate_digest: str
    baselines: _containers.RepeatedScalarFieldContainer[str]
    policy: str
    policy_digest: str
    reasons: _containers.RepeatedCompositeFieldContainer[GateReason]
    metrics: _containers.RepeatedCompositeFieldContainer[GateResult]
    suites: _containers.RepeatedCompositeFieldContainer[GateResult]
    unseen: _containers.RepeatedCompositeFieldContainer[GateResult]
    improved: bool
    report_json: str
    report_digest: str
    eval_runs: _containers.RepeatedScalarFieldContainer[str]
    create_time: _timestamp_pb2.Timestamp
    alias: str
    explanation: str
    attempt: int
    attempts_budget: int
    repeat_run: str
    stale: _containers.RepeatedCompositeFieldContainer[GateReason]
    def __init__(self, name: _Optional[str] = ..., verdict: _Optional[_Union[Verdict, str]] = ..., candidate: _Optional[str] = ..., candidate_digest: _Optional[str] = ..., baselines: _Optional[_Iterable[str]] = ..., policy: _Optional[str] = ..., policy_digest: _Optional[str] = ..., reasons: _Optional[_Iterable[_Union[GateReason, _Mapping]]] = ..., metrics: _Optional[_Iterable[_Union[GateResult, _Mapping]]] = ..., suites: _Optional[_Iterable[_Union[GateResult, _Mapping]]] = ..., unseen: _Optional[_Iterable[_Union[GateResult, _Mapping]]] = ..., improved: _Optional[bool] = ..., report_json: _Optional[str] = ..., report_digest: _Optional[str] = ..., eval_runs: _Optional[_Iterable[str]] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., alias: _Optional[str] = ..., explanation: _Optional[str] = ..., attempt: _Optional[int] = ..., attempts_budget: _Optional[int] = ..., repeat_run: _Optional[str] = ..., stale: _Optional[_Iterable[_Union[GateReason, _Mapping]]] = ...) -> None: ...

class CreateGateRunRequest(_message.Message):
    __slots__ = ("parent", "candidate", "policy", "alias")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    CANDIDATE_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    ALIAS_FIELD_NUMBER: _ClassVar[int]
    parent: str
    candidate: str
    policy: str
    alias: str
    def __init__(self, parent: _Optional[str] = ..., candidate: _Optional[str] = ..., policy: _Optional[str] = ..., alias: _Optional[str] = ...) -> None: ...

class GetGateRunRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class ListGateRunsRequest(_message.Message):
    __slots__ = ("parent", "candidate", "page_size", "page_token")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    CANDIDATE_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    parent: str
    candidate: str
    page_size: int
    page_token: str
    def __init__(self, parent: _Optional[str] = ..., candidate: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListGateRunsResponse(_message.Message):
    __slots__ = ("gate_runs", "next_page_token")
    GATE_RUNS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    gate_runs: _containers.RepeatedCompositeFieldContainer[GateRun]
    next_page_token: str
    def __init__(self, gate_runs: _Optional[_Iterable[_Union[GateRun, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class Promotion(_message.Message):
    __slots__ = ("name", "version", "version_digest", "model", "alias", "gate_run", "outcome", "missing", "from_version", "reason", "job", "create_time")
    class Outcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        OUTCOME_UNSPECIFIED: _ClassVar[Promotion.Outcome]
        APPLIED: _ClassVar[Promotion.Outcome]
        REFUSED: _ClassVar[Promotion.Outcome]
    OUTCOME_UNSPECIFIED: Promotion.Outcome
    APPLIED: Promotion.Outcome
    REFUSED: Promotion.Outcome
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    VERSION_DIGEST_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    ALIAS_FIELD_NUMBER: _ClassVar[int]
    GATE_RUN_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    MISSING_FIELD_NUMBER: _ClassVar[int]
    FROM_VERSION_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    JOB_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    version_digest: str
    model: str
    alias: str
    gate_run: str
    outcome: Promotion.Outcome
    missing: _containers.RepeatedCompositeFieldContainer[GateReason]
    from_version: str
    reason: str
    job: str
    create_time: _timestamp_pb2.Timestamp
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ..., version_digest: _Optional[str] = ..., model: _Optional[str] = ..., alias: _Optional[str] = ..., gate_run: _Optional[str] = ..., outcome: _Optional[_Union[Promotion.Outcome, str]] = ..., missing: _Optional[_Iterable[_Union[GateReason, _Mapping]]] = ..., from_version: _Optional[str] = ..., reason: _Optional[str] = ..., job: _Optional[str] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class CreatePromotionRequest(_message.Message):
    __slots__ = ("parent", "version", "alias", "gate_run", "reason", "expected_alias_etag", "request_id", "validate_only")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ALIAS_FIELD_NUMBER: _ClassVar[int]
    GATE_RUN_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_ALIAS_ETAG_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    parent: str
    version: str
    alias: str
    gate_run: str
    reason: str
    expected_alias_etag: str
    request_id: str
    validate_only: bool
    def __init__(self, parent: _Optional[str] = ..., version: _Optional[str] = ..., alias: _Optional[str] = ..., gate_run: _Optional[str] = ..., reason: _Optional[str] = ..., expected_alias_etag: _Optional[str] = ..., request_id: _Optional[str] = ..., validate_only: _Optional[bool] = ...) -> None: ...

class GetPromotionRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class ListPromotionsRequest(_message.Message):
    __slots__ = ("parent", "model", "page_size", "page_token")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    parent: str
    model: str
    page_size: int
    page_token: str
    def __init__(self, parent: _Optional[str] = ..., model: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListPromotionsResponse(_message.Message):
    __slots__ = ("promotions", "next_page_token")
    PROMOTIONS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    promotions: _containers.RepeatedCompositeFieldContainer[Promotion]
    next_page_token: str
    def __init__(self, promotions: _Optional[_Iterable[_Union[Promotion, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...
