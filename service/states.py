"""A job's states and the only table of how they change (docs/design.md section 5). Pure: no clock, no database.

The states are the protocol's enum `JobState`. What happens to a job is a `JobEvent`; `apply` gives the state after
it, or refuses. Which attempt an event belongs to, and whether it is late, is decided before `apply` is asked
(posttrain.service.jobs).
"""

from __future__ import annotations

from enum import StrEnum

from posttrain.service.errors import IllegalTransitionError
from posttrain.service.proto import jobs_pb2

State = str  # the name of a value of the protocol's JobState

VALIDATING: State = jobs_pb2.JobState.Name(jobs_pb2.VALIDATING)
QUEUED: State = jobs_pb2.JobState.Name(jobs_pb2.QUEUED)
STARTING: State = jobs_pb2.JobState.Name(jobs_pb2.STARTING)
RUNNING: State = jobs_pb2.JobState.Name(jobs_pb2.RUNNING)
PAUSING: State = jobs_pb2.JobState.Name(jobs_pb2.PAUSING)
PAUSED: State = jobs_pb2.JobState.Name(jobs_pb2.PAUSED)
RECOVERING: State = jobs_pb2.JobState.Name(jobs_pb2.RECOVERING)
CANCELLING: State = jobs_pb2.JobState.Name(jobs_pb2.CANCELLING)
SUCCEEDED: State = jobs_pb2.JobState.Name(jobs_pb2.SUCCEEDED)
FAILED: State = jobs_pb2.JobState.Name(jobs_pb2.FAILED)
CANCELLED: State = jobs_pb2.JobState.Name(jobs_pb2.CANCELLED)

STATES: tuple[State, ...] = tuple(name for name, value in jobs_pb2.JobState.items() if value)
TERMINAL = frozenset({SUCCEEDED, FAILED, CANCELLED})
# A worker may be alive in these.
ACTIVE = frozenset({STARTING, RUNNING, PAUSING, CANCELLING, RECOVERING})


class JobEvent(StrEnum):
    """What happens to a job."""

    ACCEPTED = "accepted"  # the references were checked
    REJECTED = "rejected"
    STARTED = "started"  # the scheduler gave it a place: a new attempt begins
    REPORTED = "reported"  # the worker's first event
    SUCCEEDED = "succeeded"  # the exit record says so
    FAILED = "failed"  # the exit record says so, or it cannot go on
    STOPPED = "stopped"  # the worker stopped because it was asked to
    LOST = "lost"  # the worker is gone and left no exit record
    REQUEUED = "requeued"  # after a loss: try again from the newest checkpoint
    PAUSE_REQUESTED = "pause_requested"
    RESUME_REQUESTED = "resume_requested"
    CANCEL_REQUESTED = "cancel_requested"


TRANSITIONS: dict[State, dict[JobEvent, State]] = {
    VALIDATING: {
        JobEvent.ACCEPTED: QUEUED,
        JobEvent.REJECTED: FAILED,
        JobEvent.CANCEL_REQUESTED: CANCELLING,
    },
    QUEUED: {
        JobEvent.STARTED: STARTING,
        JobEvent.PAUSE_REQUESTED: PAUSED,
        JobEvent.CANCEL_REQUESTED: CANCELLING,
    },
    STARTING: {
        JobEvent.REPORTED: RUNNING,
        JobEvent.LOST: QUEUED,
        JobEvent.PAUSE_REQUESTED: PAUSING,
        JobEvent.FAILED: FAILED,
        JobEvent.CANCEL_REQUESTED: CANCELLING,
    },
    RUNNING: {
        JobEvent.SUCCEEDED: SUCCEEDED,
        JobEvent.FAILED: FAILED,
        JobEvent.PAUSE_REQUESTED: PAUSING,
        JobEvent.LOST: RECOVERING,
        JobEvent.CANCEL_REQUESTED: CANCELLING,
    },
    PAUSING: {
        JobEvent.STOPPED: PAUSED,
        JobEvent.SUCCEEDED: SUCCEEDED,
        JobEvent.FAILED: FAILED,
        JobEvent.LOST: RECOVERING,
        JobEvent.CANCEL_REQUESTED: CANCELLING,
    },
    PAUSED: {
        JobEvent.RESUME_REQUESTED: QUEUED,
        JobEvent.CANCEL_REQUESTED: CANCELLING,
    },
    RECOVERING: {
        JobEvent.REQUEUED: QUEUED,
        JobEvent.FAILED: FAILED,
        JobEvent.CANCEL_REQUESTED: CANCELLING,
    },
    CANCELLING: {
        JobEvent.STOPPED: CANCELLED,
        JobEvent.LOST: CANCELLED,
        JobEvent.SUCCEEDED: SUCCEEDED,
        JobEvent.FAILED: FAILED,
    },
    SUCCEEDED: {},
    FAILED: {},
    CANCELLED: {},
}


def apply(state: State, event: JobEvent) -> State:
    """The state after an event.

    Raises:
        IllegalTransitionError: this event cannot happen in this state.
    """
    try:
        return TRANSITIONS[state][event]
    except KeyError:
        raise IllegalTransitionError(f"a job that is {state} cannot be {event.value.replace('_', ' ')}") from None
