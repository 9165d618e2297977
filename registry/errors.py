"""Errors of the registry. Like the engine's: a stable `code`, `retryable`, and a `hint` a person can act on.

posttrain.engine.errors.EngineError
└── RegistryError
    ├── NotFoundError(LookupError)            no such job, version, alias, dataset ...
    ├── AlreadyExistsError(ValueError)        the name, number or request id is taken by something else
    ├── ConflictError(RuntimeError)           somebody else changed it first (etag, compare-and-swap)
    │   └── StaleAttemptError                 a write of an attempt that is no longer the job's newest
    ├── UnmetError(RuntimeError)              a precondition does not hold; `items` lists each one
    │   └── PromotionRefusedError             recorded as a REFUSED promotion; `promotion` is its id
    ├── BadRefError(ValueError)               not a reference NAME@NUMBER or NAME@ALIAS
    ├── InvalidArgumentError(ValueError)      any other bad argument; `field` names it
    │   └── InvalidDatasetError               rows that cannot be used; `problems` names row, field and reason
    ├── UnsafePathError(ValueError)           a file name or link that would leave its folder
    ├── TooLargeError(ValueError)             more bytes than allowed
    ├── TamperedError(ValueError)             stored bytes or records differ from their digest
    ├── HomeLockedError(OSError)              another server runs on the same data folder
    ├── SchemaError(RuntimeError)             the database is not of this version
    └── HubError(ConnectionError)             a model cannot be fetched from the hub
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from posttrain.engine.data.rows import Problem
from posttrain.engine.errors import EngineError


@dataclass(frozen=True)
class Unmet:
    """One precondition that does not hold: a stable code, what it is about, and a sentence."""

    code: str
    subject: str
    message: str
    metric: str = ""
    baseline: str = ""


class RegistryError(EngineError):
    code = "REGISTRY"


class NotFoundError(RegistryError, LookupError):
    code = "NOT_FOUND"
    hint = "list what there is: `posttrain models list`, `datasets list`, `suites list`, `jobs list`"


class AlreadyExistsError(RegistryError, ValueError):
    code = "ALREADY_EXISTS"
    hint = "use another name or another request id"


class ConflictError(RegistryError, RuntimeError):
    code = "CONFLICT"
    retryable = True
    hint = "read it again and repeat the change on what it is now"


class StaleAttemptError(ConflictError):
    code = "STALE_ATTEMPT"
    retryable = False
    hint = "a newer attempt of this job runs; this one must stop"


class UnmetError(RegistryError, RuntimeError):
    code = "UNMET"
    hint = "mend each item and ask again"

    def __init__(self, message: str, items: Sequence[Unmet] = (), hint: str = "") -> None:
        super().__init__(message, hint)
        self.items = tuple(items)


class PromotionRefusedError(UnmetError):
    code = "PROMOTION_REFUSED"
    hint = "see the gate's reasons; the alias still names what it named"

    def __init__(self, message: str, items: Sequence[Unmet], promotion: str) -> None:
        super().__init__(message, items)
        self.promotion = promotion


class BadRefError(RegistryError, ValueError):
    code = "BAD_REF"
    hint = "write NAME@NUMBER, NAME@latest or, for models, NAME@ALIAS"


class InvalidArgumentError(RegistryError, ValueError):
    code = "INVALID"
    hint = "mend the named field"

    def __init__(self, message: str, field: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.field = field


class InvalidDatasetError(InvalidArgumentError):
    code = "INVALID_DATASET"
    hint = "mend the named rows and add the dataset again, or leave bad rows out: --on-bad-row skip"

    def __init__(self, message: str, problems: Sequence[Problem]) -> None:
        super().__init__(message, "rows")
        self.problems = tuple(problems)


class UnsafePathError(RegistryError, ValueError):
    code = "UNSAFE_PATH"
    hint = "use plain relative file names without '..', and no links that leave the folder"


class TooLargeError(RegistryError, ValueError):
    code = "TOO_LARGE"
    hint = "split the data into several datasets"


class TamperedError(RegistryError, ValueError):
    code = "TAMPERED"
    hint = "restore the data folder from a backup; `posttrain doctor` lists what differs"


class HomeLockedError(RegistryError, OSError):
    code = "HOME_LOCKED"
    hint = "stop the other server or use another data folder (--home)"


class SchemaError(RegistryError, RuntimeError):
    code = "BAD_SCHEMA"
    hint = "use the version of posttrain that wrote this data folder, or a newer one"


class HubError(RegistryError, ConnectionError):
    code = "HUB_UNREACHABLE"
    retryable = True
    hint = "check the network and the id, or import a local folder"
