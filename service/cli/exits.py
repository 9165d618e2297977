"""Exit codes: the one table that `--help`, docs/cli.md and the tests read."""

from __future__ import annotations

from enum import IntEnum
from typing import Final


class Exit(IntEnum):
    OK = 0
    UNEXPECTED = 1
    USAGE = 2
    NOT_FOUND = 3
    JOB_FAILED = 4
    GATE_FAIL = 5
    INCONCLUSIVE = 6
    REFUSED = 7
    CANCELLED = 8
    CONFLICT = 9
    INTERRUPTED = 130


MEANING: Final[dict[Exit, str]] = {
    Exit.OK: "done; with a gate: PASS, and the alias moved",
    Exit.UNEXPECTED: "an error that this program did not foresee, here or in the server",
    Exit.USAGE: "wrong usage, a bad spec, a bad file or row",
    Exit.NOT_FOUND: "no such thing, or no server at the address",
    Exit.JOB_FAILED: "the job or a step of its chain failed",
    Exit.GATE_FAIL: "the gate's verdict is FAIL; of `datasets check`: questions of suites were found",
    Exit.INCONCLUSIVE: "the gate's verdict is INCONCLUSIVE, which blocks",
    Exit.REFUSED: "the promotion was refused (and is on record)",
    Exit.CANCELLED: "the job was cancelled",
    Exit.CONFLICT: "the state of things does not allow it: it exists already, changed meanwhile, or is busy",
    Exit.INTERRUPTED: "interrupted (Ctrl-C)",
}

_OF_STATUS: Final[dict[str, Exit]] = {
    "INVALID_ARGUMENT": Exit.USAGE,
    "OUT_OF_RANGE": Exit.USAGE,
    "UNIMPLEMENTED": Exit.USAGE,
    "NOT_FOUND": Exit.NOT_FOUND,
    "UNAVAILABLE": Exit.NOT_FOUND,
    "CANCELLED": Exit.CANCELLED,
    "ABORTED": Exit.CONFLICT,
    "ALREADY_EXISTS": Exit.CONFLICT,
    "FAILED_PRECONDITION": Exit.CONFLICT,
    "RESOURCE_EXHAUSTED": Exit.CONFLICT,
}


def of_status(code: str, reason: str) -> Exit:
    """The exit code of a failed call, by its gRPC status and stable reason."""
    if reason == "PROMOTION_REFUSED":
        return Exit.REFUSED
    return _OF_STATUS.get(code, Exit.UNEXPECTED)


def table() -> str:
    """The codes with their meaning, one a line."""
    return "\n".join(f"{code.value:>4}  {MEANING[code]}" for code in Exit)
