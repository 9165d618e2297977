"""Generation for evaluations and on-policy methods, and scoring of given continuations.

Prompts are sorted by length and filled into slots packed, without padding; each step decodes one token in every
active row; a finished row leaves at once and the next prompt takes its place. Several completions of a prompt that
start together share one computation of it. Sampling draws from a generator of the row's own, so what a row gets does
not depend on its neighbours, up to float32 near-ties: products of few rows round differently than the same rows in a
larger one.
"""

from posttrain.engine.rollout.completions import (
    Completion,
    Environment,
    GenerationSettings,
    Reply,
    StopReason,
    ToolResult,
    Turn,
)
from posttrain.engine.rollout.generation import generate, generate_groups
from posttrain.engine.rollout.sampling import sample
from posttrain.engine.rollout.scoring import score

__all__ = [
    "Completion", "Environment", "GenerationSettings", "Reply", "StopReason", "ToolResult", "Turn",
    "generate", "generate_groups", "sample", "score",
]  # fmt: skip
