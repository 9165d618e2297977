import re
from pathlib import Path

import pytest

from posttrain.service import states
from posttrain.service.errors import IllegalTransitionError
from posttrain.service.proto import jobs_pb2
from posttrain.service.states import JobEvent, apply

DESIGN = Path(__file__).parents[2] / "docs" / "design.md"


def table_of_the_design() -> dict[str, set[str]]:
    """State -> states, read from the page that people read."""
    section = DESIGN.read_text().split("## 5. A job's life", 1)[1].split("\n## ", 1)[0]
    allowed: dict[str, set[str]] = {state: set() for state in states.STATES}
    for line in re.findall(r"^ {4}(\w.*->.*)$", section, re.MULTILINE):
        sources, *rest = [part.strip() for part in line.split("->")]
        from_any = sources.startswith("any state")
        for source in states.STATES if from_any else [sources]:
            if from_any and (source in states.TERMINAL or source == states.CANCELLING):
                continue
            allowed[source] |= {target.strip() for target in rest[0].split("|")}
        if from_any:
            allowed[states.CANCELLING] |= {target.strip() for target in rest[1].split("|")}
    return allowed


def test_the_table_is_the_designs() -> None:
    ours = {state: set(events.values()) for state, events in states.TRANSITIONS.items()}
    assert ours == table_of_the_design()


def test_the_states_are_the_protocols() -> None:
    names = {name for name in jobs_pb2.JobState.keys() if name != "JOB_STATE_UNSPECIFIED"}  # noqa: SIM118 - an enum wrapper
    assert set(states.TRANSITIONS) == set(states.STATES) == names


@pytest.mark.parametrize("state", states.STATES)
@pytest.mark.parametrize("event", JobEvent)
def test_every_state_with_every_event(state: str, event: JobEvent) -> None:
    if event in states.TRANSITIONS[state]:
        assert apply(state, event) == states.TRANSITIONS[state][event]
    else:
        with pytest.raises(IllegalTransitionError, match=state):
            apply(state, event)


@pytest.mark.parametrize("state", sorted(states.TERMINAL))
def test_nothing_leaves_a_terminal_state(state: str) -> None:
    assert states.TRANSITIONS[state] == {}


def test_only_starting_begins_an_attempt() -> None:
    into = {
        (state, event)
        for state, events in states.TRANSITIONS.items()
        for event, to in events.items()
        if to == states.STARTING
    }
    assert into == {(states.QUEUED, JobEvent.STARTED)}


@pytest.mark.parametrize("state", [state for state in states.STATES if state not in states.TERMINAL])
def test_every_live_state_can_end(state: str) -> None:
    seen, todo = set(), {state}
    while todo:
        seen |= todo
        todo = {to for one in todo for to in states.TRANSITIONS[one].values()} - seen
    assert seen & states.TERMINAL


def test_success_needs_an_exit_record() -> None:
    """Nothing but the worker's own word leads to SUCCEEDED."""
    events = {event for table in states.TRANSITIONS.values() for event, to in table.items() if to == states.SUCCEEDED}
    assert events == {JobEvent.SUCCEEDED}
