"""Which layers of a model `adapter.targets` names: those with a target as their name or its end, as peft understands
it. Imports no torch, so that a wrong target is told before a job is queued.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from posttrain.engine.errors import SpecError

# Of other families transformers renames, splits or joins weights while it loads them, so that the names in the files
# say nothing for sure; a test compares these.
PLAIN_FAMILIES = frozenset(
    {"cohere", "gemma2", "gemma3_text", "gpt2", "gpt_neox", "granite", "llama", "mistral", "phi3", "qwen2", "qwen3"}
)
HEAD_AND_EMBEDDINGS = ("lm_head", "embed_out", "embed_tokens", "embed_in", "wte", "wpe")
NUM_TOLD = 10
MAX_PARTS = 32


def is_named(layer: str, targets: Iterable[str]) -> bool:
    """Whether one of the targets names this layer."""
    return any(layer == target or layer.endswith(f".{target}") for target in targets)


def layers_of(config: Mapping[str, Any], shapes: Mapping[str, Sequence[int]]) -> list[str] | None:
    """Names of a model's layers with a matrix, from its config and the tensors of its files; None where they cannot
    be known without loading it."""
    if config.get("model_type") not in PLAIN_FAMILIES:
        return None
    return sorted(name.removesuffix(".weight") for name, shape in shapes.items() if len(shape) == 2)


def wrong_targets(targets: Sequence[str], layers: Collection[str]) -> dict[int, str]:
    """What is wrong with each target that names no layer, by its place in the list; of the first ten."""
    possible = sorted({layer.rpartition(".")[2] for layer in layers} - set(HEAD_AND_EMBEDDINGS))
    known = {*layers, *HEAD_AND_EMBEDDINGS}  # a tied head is in no file
    ends = {end for layer in known for end in _ends(layer)}
    # A file of a model without its head has names without the model's own prefix.
    wrong = (i for i, target in enumerate(targets) if target not in ends and known.isdisjoint(_ends(target)))
    return {
        index: f"{targets[index][:100]!r} is no layer of this model; its linear layers are {', '.join(possible)}"
        for index in islice(wrong, NUM_TOLD)
    }


def _ends(name: str) -> Iterator[str]:
    """`a.b.c`, `b.c` and `c` of a name; of its last parts only, as no layer has more."""
    parts = name.split(".")[-MAX_PARTS:]
    return (".".join(parts[start:]) for start in range(len(parts)))


def check_targets(targets: Sequence[str], layers: Collection[str]) -> None:
    """Raises SpecError for the first target that names no layer."""
    for index, what in wrong_targets(targets, layers).items():
        raise SpecError(f"adapter.targets[{index}]: {what}", hint="name some of them, or leave adapter.targets empty")
