"""What a training job will need: an estimate of its peak memory from its spec and its model's files. Imports no torch.

Counted for one optimiser step, in bytes of the dtypes that the engine uses:

- weights: every tensor of the safetensors files, in the job's dtype, and LoRA's own; of a base in 4 bits
  (arXiv:2305.14314) half a byte for a weight, a byte for 64 and 4 bytes for 16,384, and one matrix as it is computed.
- trained: float32 masters (in bfloat16 only), gradients (float32), AdamW's two moments (float32), of all parameters or
  of LoRA's r * (inputs + outputs) for each adapted matrix.
- activations: what autograd keeps of one packed pass, of `micro_tokens` or its largest row, see `kept_elements`.
- on-policy: what a rollout's completions keep in the cache of keys and values, what drawing a token takes, and a frozen
  copy of the weights if a divergence from them is computed without an adapter; a value model has weights of its own;
  the weights of reward models, and what their passes, which keep one layer at a time, need beyond an update's.
- head: logits of one chunk and what is made of them (engine/losses.py holds at most 2^24 at a time).
- unquantised: what loading and saving, which hold the whole model in the CPU's memory, need there beyond a step.
- process: the interpreter with torch, transformers and peft; on CUDA the context.

Measured against real attempts in tests/engine/test_plan.py.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

from posttrain.engine.errors import ModelError, SpecError
from posttrain.engine.spec import (
    DpoSpec,
    EmaAveraging,
    GrpoSpec,
    KtoLoss,
    LoraAdapter,
    OnPolicyOptions,
    PpoSpec,
    RewardSpec,
    ToolEnvironment,
    TrainSpec,
    reward_models_of,
)
from posttrain.engine.targets import is_named

PROCESS_BYTES = 440 * 10**6
CUDA_BYTES = 600 * 10**6
LOGITS_AT_A_TIME = 2**24  # losses.CHUNK_ELEMENTS, which imports torch; a test compares them
# With LoRA a pass leaves large freed pieces between small ones that it keeps, and glibc's heap does not give them back:
# measured 1.2 to 1.35 times the activations. Without LoRA it was 1.0.
LORA_HEAP = 1.3
# Of each logit that a token is drawn from: float64 of it, tempered, as probability, sorted, summed up; and its place.
SAMPLING_BYTES = 6 * 8
_EMBEDDING_NAMES = ("embed", "wte", "wpe", "lm_head", "embed_out", "output.weight")
_HEAD_NAMES = ("lm_head.weight", "embed_out.weight")


@dataclass(frozen=True)
class Shapes:
    """A model as the estimate sees it: sizes by the config's usual names, and its matrices by name."""

    num_layers: int
    width: int
    query_width: int
    key_width: int
    hidden_width: int
    vocabulary: int
    num_parameters: int
    matrices: dict[str, tuple[int, int]] = field(default_factory=dict)
    head_parameters: int = 0
    """Of a head that is no embedding at the same time."""


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes by what they are for, in the order of the module's docstring; `replan` plans a changed spec of the job."""

    parts: dict[str, int]
    replan: Callable[[TrainSpec], MemoryPlan] = field(repr=False, compare=False)

    @property
    def total_bytes(self) -> int:
        return sum(self.parts.values())

    def fits(self, limit_bytes: int) -> bool:
        """0 is a limit that nobody knows."""
        return not limit_bytes or self.total_bytes <= limit_bytes


def read_shapes(folder: Path) -> Shapes:
    """From `config.json` and the headers of the safetensors files; no weights are read.

    Raises:
        ModelError: a file is missing or cannot be read, or the config does not name the sizes.
    """
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
        tensors: dict[str, tuple[int, ...]] = {}
        for path in sorted(folder.glob("*.safetensors")):
            tensors.update(_header(path))
        if not tensors:
            raise ModelError(f"{folder.name}: there are no safetensors files, or no tensors in them")
        config = config.get("text_config", config)
        width = int(_first(config, "hidden_size", "n_embd", "d_model"))
        num_heads = int(_first(config, "num_attention_heads", "n_head"))
        head_width = int(config.get("head_dim") or width // num_heads)
        return Shapes(
            num_layers=int(_first(config, "num_hidden_layers", "n_layer")),
            width=width,
            query_width=num_heads * head_width,
            key_width=int(config.get("num_key_value_heads") or num_heads) * head_width,
            hidden_width=int(config.get("intermediate_size") or config.get("n_inner") or 4 * width),
            vocabulary=int(config["vocab_size"]),
            num_parameters=sum(prod(shape) for shape in tensors.values()),
            head_parameters=sum(prod(shape) for name, shape in tensors.items() if name.endswith(_HEAD_NAMES)),
            matrices={
                name: (shape[0], shape[1])
                for name, shape in tensors.items()
                if len(shape) == 2 and not any(part in name for part in _EMBEDDING_NAMES)
            },
        )
    except ModelError:
        raise
    except (OSError, ValueError, LookupError, ArithmeticError, TypeError, AttributeError, RecursionError,
            struct.error) as error:  # fmt: skip
        raise ModelError(f"{folder.name}: its sizes cannot be read: {error}") from error


def memory_plan(
    spec: TrainSpec,
    shapes: Shapes,
    *,
    is_cuda: bool = False,
    longest: int = 0,
    largest: int = 0,
    step_tokens: int = 0,
    judges: Sequence[Shapes] = (),
) -> MemoryPlan:
    """The peak of one attempt.

    Args:
        longest: tokens of the longest sequence; 0, not known: what the spec allows.
        largest: tokens computed for one row, a pair's prompt once and both its answers; 0, not known: at most twice
            `longest` for a pair.
        step_tokens: tokens of a step on average; 0, not known: all its rows are the largest.
        judges: the reward models among the parts of its rewards, in their order; one that is not known is taken to be
            as large as the base.
    """
    rows, given = longest, largest
    longest = longest or spec.batch.max_tokens
    bound = _sequences(spec) * longest
    largest = min(largest or bound, bound)
    if isinstance(spec, OnPolicyOptions):  # what is known are prompts; a rollout adds its completions to them
        added = spec.rollout.max_new_tokens
        if isinstance(spec.environment, ToolEnvironment):
            added += (spec.environment.max_turns - 1) * spec.environment.max_result_tokens
        longest = min(spec.batch.max_tokens, longest + added)
        step_tokens = spec.batch.num_rows * ((rows or longest) + spec.rollout.num_completions * added)
        largest = longest  # a row too large for a pass is computed in pieces, of one completion at the least
    # A pass is filled up to micro_tokens, unless the step has less; a larger row is alone in its own.
    num_tokens = max(largest, min(spec.batch.micro_tokens, step_tokens or spec.batch.num_rows * largest))
    is_half = spec.dtype == "bfloat16" or (spec.dtype == "auto" and is_cuda)
    size = 2 if is_half else 4
    lora = spec.adapter if isinstance(spec.adapter, LoraAdapter) else None
    trained = lora_parameters(lora, shapes) if lora else shapes.num_parameters
    if isinstance(spec, RewardSpec) and not lora:
        trained -= shapes.head_parameters  # frozen (score.py): scores have a head of their own
    logits = (
        0
        if isinstance(spec, RewardSpec)
        else min(num_tokens * shapes.vocabulary, max(LOGITS_AT_A_TIME, 16 * shapes.vocabulary))
    )
    each, layers = kept_elements(shapes, lora), shapes.num_layers
    # With checkpointing a layer keeps its input, and one layer at a time all of it.
    elements = layers * shapes.width + each if spec.memory.gradient_checkpointing else layers * each
    kept = size * num_tokens * elements
    whole = size * (shapes.num_parameters + (trained if lora else 0))
    saved = saved_bytes(lora, shapes, size) if lora else 0
    update = {
        "masters": 4 * trained if is_half else 0,
        "gradients": 4 * trained,
        # 8-bit moments; Adafactor keeps a row and a column for each matrix (arXiv:1804.04235), next to nothing.
        "moments": {"adamw": 8, "adamw_8bit": 2, "adafactor": 0}[spec.optimizer.name] * trained,
    }
    parts = {
        "process": CUDA_BYTES if is_cuda else PROCESS_BYTES,
        "weights": whole - saved,
        **update,
        "average": 4 * trained if isinstance(spec.averaging, EmaAveraging) else 0,
        **_on_policy(spec, shapes, longest, size),
        # As much again is trained. Its activations are held when the policy's are gone.
        **({"value": size * trained + sum(update.values())} if isinstance(spec, PpoSpec) else {}),
        "activations": round(kept * (LORA_HEAP if lora and not is_cuda else 1)),
        # Log-probabilities become the gradient in place (losses.py); where each token's is
        # wanted they are autograd's, which keeps one more.
        "head": 4 * (3 if spec.kind in ("dpo", "grpo", "ppo") else 2) * logits,
    }
    num_judges = len(reward_models_of(spec))
    if num_judges:
        known = [*judges, *[shapes] * (num_judges - len(judges))]
        a_pass = max(size * num_tokens * kept_elements(judge) for judge in known) - parts["activations"]
        parts["reward_models"] = size * sum(judge.num_parameters for judge in known) + max(0, a_pass)
    if saved:
        in_a_step = parts["gradients"] + parts["activations"] + parts["head"]  # given back when the model is saved
        parts["unquantised"] = 0 if is_cuda else max(0, saved - in_a_step)

    def replan(changed: TrainSpec) -> MemoryPlan:
        known = min(rows, changed.batch.max_tokens)
        return memory_plan(
            changed, shapes, is_cuda=is_cuda, longest=known, largest=given, step_tokens=step_tokens, judges=judges
        )

    return MemoryPlan(parts, replan)


def _sequences(spec: TrainSpec) -> int:
    """In one row: a pair's answers are computed in one pass."""
    is_pair = isinstance(spec, RewardSpec) or (isinstance(spec, DpoSpec) and not isinstance(spec.loss, KtoLoss))
    return 2 if is_pair else 1


def _on_policy(spec: TrainSpec, shapes: Shapes, longest: int, size: int) -> dict[str, int]:
    """Bytes that only a method with rollouts needs; `longest` is of prompt and completion together."""
    if not isinstance(spec, GrpoSpec | PpoSpec):
        return {}
    num_completions = spec.update.num_minibatches * spec.batch.num_rows * spec.rollout.num_completions
    num_rows = min(spec.rollout.batch_rows, num_completions)
    cached = 2 * shapes.num_layers * shapes.key_width * longest * num_rows
    drawn = SAMPLING_BYTES * num_rows * shapes.vocabulary
    weight = spec.beta if isinstance(spec, GrpoSpec) else spec.kl.coefficient
    is_frozen = weight > 0 and not isinstance(spec.adapter, LoraAdapter)
    return {"rollout": size * cached + drawn, "reference": size * shapes.num_parameters if is_frozen else 0}


def kept_elements(shapes: Shapes, lora: LoraAdapter | None = None) -> int:
    """Elements that autograd keeps per token and layer of a pre-norm transformer with a gated MLP.

    Twice a norm: its input, the normalised input (for the gain's gradient) and its output; turned queries and keys,
    values, and attention's output twice (by segment, and joined); gate, its activation, up, and their product. With
    LoRA the gain is frozen, and each adapted matrix keeps its r-wide inner state and, with dropout, a copy and a mask
    of its input.
    """
    common = 3 * shapes.query_width + 2 * shapes.key_width + 4 * shapes.hidden_width
    if lora is None:
        return 6 * shapes.width + common
    adapted = max(1, round(len(_adapted(lora, shapes)) / shapes.num_layers))
    dropped = sum(columns for _, columns in _adapted(lora, shapes).values()) // shapes.num_layers
    return 4 * shapes.width + common + adapted * lora.rank + (dropped * 5 // 4 if lora.dropout else 0)


def lora_parameters(lora: LoraAdapter, shapes: Shapes) -> int:
    """r * (inputs + outputs) of each adapted matrix (arXiv:2106.09685), and DoRA's magnitudes (arXiv:2402.09353)."""
    adapted = _adapted(lora, shapes).values()
    magnitudes = sum(rows for rows, _ in adapted) if lora.weight_decomposed else 0
    return sum(lora.rank * (rows + columns) for rows, columns in adapted) + magnitudes


def saved_bytes(lora: LoraAdapter, shapes: Shapes, size: int) -> int:
    """What quantising saves of adapted matrices of `size` bytes a weight, at the peak: one of them is whole then."""
    matrices = [rows * columns for rows, columns in _adapted(lora, shapes).values()]
    if lora.quantization == "none" or not matrices:
        return 0
    blocks = [-(-number // 64) for number in matrices]
    quantized = sum(-(-number // 2) for number in matrices) + sum(blocks) + sum(4 * -(-n // 256) for n in blocks)
    return max(0, size * (sum(matrices) - max(matrices)) - quantized)


def memory_limit_bytes() -> int:
    """What this machine, or the control group of this process, has; 0 where neither says."""
    found = []
    for path in (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes")):
        try:
            found.append(int(path.read_text()))
        except (OSError, ValueError):  # none, or "max"
            continue
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return min((number for number in found if number > 0), default=0)


def check_fits(plan: MemoryPlan, limit_bytes: int, spec: TrainSpec) -> None:
    """Refuses a job that needs more than there is.

    Raises:
        SpecError: says by how much, what most of it is for, and what to change.
    """
    if plan.fits(limit_bytes):
        return
    largest = max(plan.parts, key=lambda name: plan.parts[name])
    raise SpecError(
        f"about {_gb(plan.total_bytes)} of memory are needed and there are {_gb(limit_bytes)}; "
        f"{largest} take {_gb(plan.parts[largest])}",
        hint=" or ".join(_ways_out(plan, limit_bytes, spec)),
    )


def _ways_out(plan: MemoryPlan, limit_bytes: int, spec: TrainSpec) -> Sequence[str]:
    found: list[str] = []
    rest = plan.total_bytes - plan.parts["activations"]
    tokens = spec.batch.micro_tokens * max(0, limit_bytes - rest) // max(1, plan.parts["activations"])
    tokens = tokens // 64 * 64
    batch, memory = spec.batch, spec.memory
    num_sequences = _sequences(spec)
    short = {"micro_tokens": tokens, "max_tokens": min(batch.max_tokens, tokens // num_sequences)}
    that = "that short" if num_sequences == 1 else "with both answers that short"
    ways: list[tuple[str, dict[str, Any]]] = []
    if tokens:
        text = f"set batch.micro_tokens to {tokens} (and keep rows {that}: batch.max_tokens)"
        ways.append((text, {"batch": batch.model_copy(update=short)}))
    if not memory.gradient_checkpointing:
        changed = memory.model_copy(update={"gradient_checkpointing": True})
        ways.append(("set memory.gradient_checkpointing to true", {"memory": changed}))
    if not isinstance(spec.adapter, LoraAdapter):
        text = "set adapter.type to lora, which needs no gradients and moments of the base"
        ways.append((text, {"adapter": LoraAdapter()}))
    elif spec.adapter.quantization == "none":
        changed_adapter = spec.adapter.model_copy(update={"quantization": "nf4"})
        ways.append(("set adapter.quantization to nf4", {"adapter": changed_adapter}))
    for text, update in ways:
        if plan.replan(spec.model_copy(update=update)).fits(limit_bytes):
            found.append(text)
    return found or ["take a smaller model, or a machine with more memory"]


def _gb(number: int) -> str:
    return f"{number / 1e9:.1f} GB"


def _adapted(lora: LoraAdapter, shapes: Shapes) -> Mapping[str, tuple[int, int]]:
    if not lora.targets:
        return shapes.matrices
    return {
        name: shape
        for name, shape in shapes.matrices.items()
        if name.endswith(".weight") and is_named(name.removesuffix(".weight"), lora.targets)
    }


def _header(path: Path) -> dict[str, tuple[int, ...]]:
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if length > 100 * 2**20:
            raise ValueError(f"{path.name} has no safetensors header")
        header = json.loads(file.read(length))
    return {name: tuple(entry["shape"]) for name, entry in header.items() if name != "__metadata__"}


def _first(config: Mapping[str, Any], *names: str) -> Any:
    for name in names:
        if config.get(name):
            return config[name]
    raise KeyError(f"the config names none of {', '.join(names)}")
