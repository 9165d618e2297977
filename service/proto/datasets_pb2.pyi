import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DatasetVersion(_message.Message):
    __slots__ = ("name", "ref", "sealed", "format", "num_rows", "num_bytes", "sha256", "notes", "create_time", "source", "num_skipped", "num_duplicates", "skipped", "held_out", "held_out_of")
    NAME_FIELD_NUMBER: _ClassVar[int]
    REF_FIELD_NUMBER: _ClassVar[int]
    SEALED_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    NUM_ROWS_FIELD_NUMBER: _ClassVar[int]
    NUM_BYTES_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    NOTES_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    NUM_SKIPPED_FIELD_NUMBER: _ClassVar[int]
    NUM_DUPLICATES_FIELD_NUMBER: _ClassVar[int]
    SKIPPED_FIELD_NUMBER: _ClassVar[int]
    HELD_OUT_FIELD_NUMBER: _ClassVar[int]
    HELD_OUT_OF_FIELD_NUMBER: _ClassVar[int]
    name: str
    ref: str
    sealed: bool
    format: str
    num_rows: int
    num_bytes: int
    sha256: str
    notes: _containers.RepeatedScalarFieldContainer[str]
    create_time: _timestamp_pb2.Timestamp
    source: str
    num_skipped: int
    num_duplicates: int
    skipped: _containers.RepeatedScalarFieldContainer[str]
    held_out: str
    held_out_of: str
    def __init__(self, name: _Optional[str] = ..., ref: _Optional[str] = ..., sealed: _Optional[bool] = ..., format: _Optional[str] = ..., num_rows: _Optional[int] = ..., num_bytes: _Optional[int] = ..., sha256: _Optional[str] = ..., notes: _Optional[_Iterable[str]] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., source: _Optional[str] = ..., num_skipped: _Optional[int] = ..., num_duplicates: _Optional[int] = ..., skipped: _Optional[_Iterable[str]] = ..., held_out: _Optional[str] = ..., held_out_of: _Optional[str] = ...) -> None: ...

class UploadHeader(_message.Message):
    __slots__ = ("parent", "dataset", "request_id", "source", "num_bytes")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    DATASET_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    NUM_BYTES_FIELD_NUMBER: _ClassVar[int]
    parent: str
    dataset: str
    request_id: str
    source: str
    num_bytes: int
    def __init__(self, parent: _Optional[str] = ..., dataset: _Optional[str] = ..., request_id: _Optional[str] = ..., source: _Optional[str] = ..., num_bytes: _Optional[int] = ...) -> None: ...

class UploadDatasetRequest(_message.Message):
    __slots__ = ("header", "chunk")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    header: UploadHeader
    chunk: bytes
    def __init__(self, header: _Optional[_Union[UploadHeader, _Mapping]] = ..., chunk: _Optional[bytes] = ...) -> None: ...

class SealDatasetRequest(_message.Message):
    __slots__ = ("name", "on_bad_row", "deduplicate", "held_out", "seed", "files")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ON_BAD_ROW_FIELD_NUMBER: _ClassVar[int]
    DEDUPLICATE_FIELD_NUMBER: _ClassVar[int]
    HELD_OUT_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    name: str
    on_bad_row: str
    deduplicate: bool
    held_out: float
    seed: int
    files: _containers.RepeatedCompositeFieldContainer[SourceFile]
    def __init__(self, name: _Optional[str] = ..., on_bad_row: _Optional[str] = ..., deduplicate: _Optional[bool] = ..., held_out: _Optional[float] = ..., seed: _Optional[int] = ..., files: _Optional[_Iterable[_Union[SourceFile, _Mapping]]] = ...) -> None: ...

class SourceFile(_message.Message):
    __slots__ = ("name", "num_rows")
    NAME_FIELD_NUMBER: _ClassVar[int]
    NUM_ROWS_FIELD_NUMBER: _ClassVar[int]
    name: str
    num_rows: int
    def __init__(self, name: _Optional[str] = ..., num_rows: _Optional[int] = ...) -> None: ...

class GetDatasetVersionRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class ListDatasetVersionsRequest(_message.Message):
    __slots__ = ("parent", "page_size", "page_token")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    parent: str
    page_size: int
    page_token: str
    def __init__(self, parent: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListDatasetVersionsResponse(_message.Message):
    __slots__ = ("versions", "next_page_token")
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    versions: _containers.RepeatedCompositeFieldContainer[DatasetVersion]
    next_page_token: str
    def __init__(self, versions: _Optional[_Iterable[_Union[DatasetVersion, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class MeasureDatasetRequest(_message.Message):
    __slots__ = ("name", "model", "template", "max_tokens")
    NAME_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    TEMPLATE_FIELD_NUMBER: _ClassVar[int]
    MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    name: str
    model: str
    template: str
    max_tokens: int
    def __init__(self, name: _Optional[str] = ..., model: _Optional[str] = ..., template: _Optional[str] = ..., max_tokens: _Optional[int] = ...) -> None: ...

class DatasetStatistics(_message.Message):
    __slots__ = ("dataset", "model", "num_rows", "num_characters", "num_tokens", "num_trained", "mean", "p50", "p95", "longest", "limit", "num_overlong", "num_cut", "num_lost")
    DATASET_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    NUM_ROWS_FIELD_NUMBER: _ClassVar[int]
    NUM_CHARACTERS_FIELD_NUMBER: _ClassVar[int]
    NUM_TOKENS_FIELD_NUMBER: _ClassVar[int]
    NUM_TRAINED_FIELD_NUMBER: _ClassVar[int]
    MEAN_FIELD_NUMBER: _ClassVar[int]
    P50_FIELD_NUMBER: _ClassVar[int]
    P95_FIELD_NUMBER: _ClassVar[int]
    LONGEST_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    NUM_OVERLONG_FIELD_NUMBER: _ClassVar[int]
    NUM_CUT_FIELD_NUMBER: _ClassVar[int]
    NUM_LOST_FIELD_NUMBER: _ClassVar[int]
    dataset: str
    model: str
    num_rows: int
    num_characters: int
    num_tokens: int
    num_trained: int
    mean: float
    p50: int
    p95: int
    longest: int
    limit: int
    num_overlong: int
    num_cut: int
    num_lost: int
    def __init__(self, dataset: _Optional[str] = ..., model: _Optional[str] = ..., num_rows: _Optional[int] = ..., num_characters: _Optional[int] = ..., num_tokens: _Optional[int] = ..., num_trained: _Optional[int] = ..., mean: _Optional[float] = ..., p50: _Optional[int] = ..., p95: _Optional[int] = ..., longest: _Optional[int] = ..., limit: _Optional[int] = ..., num_overlong: _Optional[int] = ..., num_cut: _Optional[int] = ..., num_lost: _Optional[int] = ...) -> None: ...
