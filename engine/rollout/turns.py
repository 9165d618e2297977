"""What happens where a turn of the model ends: tools run and it goes on, or its completion is over."""

from __future__ import annotations

from collections.abc import Sequence

from posttrain.engine.rollout.completions import Environment, GenerationSettings, Reply, StopReason, Turn
from posttrain.engine.rollout.rows import Row


def close_turns(
    rows: Sequence[tuple[Row, StopReason]], environment: Environment, settings: GenerationSettings, context: int
) -> tuple[list[tuple[Row, StopReason]], list[Row]]:
    """Of rows whose newest turn has ended: those that are over, with the reason, and those that go on, which have the
    tokens before their next turn.

    A completion is over at a turn without a call; at its last turn, or with no token left to sample, whatever it calls;
    and where tools' answers would leave no room in the context, without these answers.
    """
    over, asked = list[tuple[Row, StopReason]](), list[tuple[Row, bool]]()
    for row, reason in rows:
        if reason == "stop":
            has_more = len(row.turns) + 1 < environment.max_turns and len(row.logps) < settings.max_new_tokens
            asked.append((row, has_more))
        else:
            over.append((row, reason))
            row.turns.append(Turn(row.started, len(row.token_ids)))
    waiting = [(row.episode, row.token_ids[row.started : -1], has_more) for row, has_more in asked]
    on = []
    for (row, _), reply in zip(asked, environment.replies(waiting), strict=True):
        row.turns.append(Turn(row.started, len(row.token_ids), reply.has_calls, reply.results))
        ending = _ending(row, reply, environment, settings, context)
        if ending is None:
            row.go_on(reply.token_ids)
            on.append(row)
        else:
            over.append((row, ending))
    return over, on


def _ending(
    row: Row, reply: Reply, environment: Environment, settings: GenerationSettings, context: int
) -> StopReason | None:
    if not reply.has_calls:
        return "stop"
    if reply.ends:
        return "bad_call"
    if len(row.turns) >= environment.max_turns:
        return "turns"
    if len(row.logps) >= settings.max_new_tokens:
        return "length"
    has_room = len(row.prompt) + len(row.token_ids) + len(reply.token_ids) < context
    return None if has_room else "context"
