"""Errors of the service. Like the engine's: a stable `code`, `retryable`, and a `hint` a person can act on.

    posttrain.engine.errors.EngineError
    └── ServiceError
        ├── InvalidFieldError(ValueError)    a request's field is wrong; names each
        ├── IllegalTransitionError           a job's state does not allow this
        ├── BadResumeTokenError(ValueError)  a watch cannot go on where this token says
        ├── BusyError                        all places of a kind are taken
        ├── LaunchError(OSError)             a worker process could not be started
        ├── SamplingError                    a version could not be talked to
        ├── MeasuringError                   a dataset could not be measured
        ├── ChainError                       a step after training cannot be done
        └── UnsafeAddressError(ValueError)   the server was asked to listen beyond this machine

posttrain.service.statuses maps every class to a gRPC status.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from posttrain.engine.errors import EngineError


class FieldViolation(NamedTuple):
    """A field's path in the request or spec (`data[0].dataset`) and what is wrong with it."""

    field: str
    description: str


class ServiceError(EngineError):
    code = "SERVICE"


class InvalidFieldError(ServiceError, ValueError):
    code = "INVALID_FIELD"
    hint = "mend the field named"

    def __init__(self, violations: Sequence[FieldViolation], hint: str = "") -> None:
        super().__init__("; ".join(f"{field}: {text}" for field, text in violations), hint)
        self.violations = tuple(violations)


class IllegalTransitionError(ServiceError):
    code = "ILLEGAL_TRANSITION"
    hint = "look at the job's state first (`posttrain jobs get`)"


class BadResumeTokenError(ServiceError, ValueError):
    code = "BAD_RESUME_TOKEN"
    hint = "watch again without a token; it starts with a snapshot"


class BusyError(ServiceError):
    code = "BUSY"
    retryable = True
    hint = "try again when one has ended"


class LaunchError(ServiceError, OSError):
    code = "LAUNCH_FAILED"
    retryable = True
    hint = "look at the attempt's worker.log and at the machine's limits"


class SamplingError(ServiceError):
    code = "SAMPLING_FAILED"
    hint = "try a shorter conversation, or look at the version (`posttrain models get`)"


class MeasuringError(ServiceError):
    code = "MEASURING_FAILED"
    hint = "look at the dataset and the model (`posttrain datasets get`, `posttrain models get`)"


class ChainError(ServiceError):
    code = "CHAIN_FAILED"
    hint = "the version stays registered: evaluate, gate and promote it by hand"


class UnsafeAddressError(ServiceError, ValueError):
    code = "UNSAFE_ADDRESS"
    hint = "use 127.0.0.1, and reach it from elsewhere through an SSH tunnel"
