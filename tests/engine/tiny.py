"""Tiny random models and a tokenizer, made in a second, for tests of the engine."""

from __future__ import annotations

import functools
import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    GptOssConfig,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    Phi3Config,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

from posttrain.engine import attention
from posttrain.engine.data.template import CHATML
from posttrain.engine.models import LanguageModel
from posttrain.engine.task import DatasetInput, ModelInput, TrainTask

END = "<|endoftext|>"
_TEXT = [
    "the quick brown fox jumps over the lazy dog",
    "what is two plus three? it is five.",
    "user assistant system tool name arguments get_weather city Paris",
    '{"name": "f", "arguments": {"x": 1}}',
]
COMMON = {"vocab_size": 320, "hidden_size": 32, "max_position_embeddings": 256}
LLAMA = {
    **COMMON,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
# Windows are shorter than the test's rows.
CONFIGS: dict[str, Any] = {
    "llama": lambda: LlamaConfig(**LLAMA, tie_word_embeddings=True),
    "qwen3": lambda: Qwen3Config(**LLAMA, head_dim=8, use_sliding_window=True, sliding_window=5, max_window_layers=1),
    "qwen2": lambda: Qwen2Config(**LLAMA, use_sliding_window=True, sliding_window=5, max_window_layers=1),
    "mistral": lambda: MistralConfig(**LLAMA, sliding_window=5),
    "phi3": lambda: Phi3Config(**LLAMA, sliding_window=5, pad_token_id=0, bos_token_id=0, eos_token_id=0),
    "gptneox": lambda: GPTNeoXConfig(
        **COMMON, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, rotary_pct=0.5
    ),
    "mixtral": lambda: MixtralConfig(**LLAMA, sliding_window=5, num_local_experts=4, num_experts_per_tok=2),
    "gemma3": lambda: Gemma3TextConfig(
        **LLAMA,
        head_dim=8,
        sliding_window=5,
        layer_types=["sliding_attention", "full_attention"],
        query_pre_attn_scalar=8,
    ),
    "gpt2": lambda: GPT2Config(
        vocab_size=320,
        n_positions=256,
        n_embd=32,
        n_layer=2,
        n_head=4,
        bos_token_id=0,
        eos_token_id=0,
        attn_pdrop=0.0,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
    ),
    "gemma2": lambda: Gemma2Config(
        **LLAMA,
        head_dim=8,
        sliding_window=5,
        attn_logit_softcapping=0.5,
        final_logit_softcapping=3.0,
        query_pre_attn_scalar=8,
    ),
    "granite": lambda: GraniteConfig(**LLAMA, logits_scaling=3.0, residual_multiplier=0.5, embedding_multiplier=2.0),
    "cohere": lambda: CohereConfig(**LLAMA, logit_scale=0.25),
    "gptoss": lambda: GptOssConfig(
        **LLAMA,
        head_dim=8,
        sliding_window=5,
        num_local_experts=2,
        num_experts_per_tok=2,
        rope_parameters={"rope_type": "default", "rope_theta": 1e4},
    ),
}


@functools.cache
def _trained_tokenizer() -> str:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=[END], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(_TEXT * 4, trainer)
    return str(tokenizer.to_str())


def tiny_tokenizer(is_chat: bool = False) -> PreTrainedTokenizerFast:
    """Byte-level BPE of at most 300 tokens; with `is_chat` also chatml's tokens and template."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_trained_tokenizer()), eos_token=END, bos_token=END, pad_token=END
    )
    if is_chat:
        tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
        tokenizer.eos_token = "<|im_end|>"
        tokenizer.chat_template = CHATML
    return tokenizer


def tiny_module(name: str, seed: int = 0, scale: float = 8.0) -> Any:
    """A random model; weights are scaled up so that logits differ enough to compare."""
    return _random_module(CONFIGS[name](), seed, scale)


def tiny_of(config: Any) -> LanguageModel:
    """The same of a config that is not among CONFIGS."""
    return LanguageModel.of(_random_module(config, 0, 8.0))


def _random_module(config: Any, seed: int, scale: float) -> Any:
    torch.manual_seed(seed)
    module = AutoModelForCausalLM.from_config(config, attn_implementation=attention.NAME, dtype=torch.float32)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim >= 2:
                parameter.mul_(scale)
    return module.eval()


def tiny_model(name: str, seed: int = 0) -> LanguageModel:
    return LanguageModel.of(tiny_module(name, seed))


def save_base(folder: Path, name: str = "llama", is_chat: bool = False, seed: int = 0) -> ModelInput:
    """Writes a base model folder."""
    module = tiny_module(name, seed, scale=1.0)
    tokenizer = tiny_tokenizer(is_chat)
    for settings in (module.config, module.generation_config):
        settings.bos_token_id = settings.pad_token_id = tokenizer.pad_token_id
        settings.eos_token_id = tokenizer.eos_token_id
    module.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return ModelInput(ref="tiny@1", path=str(folder), digest="0" * 64, weights_digest="0" * 64)


def rows_of(count: int) -> list[dict[str, Any]]:
    """Conversations of various lengths."""
    words = " ".join(_TEXT).split()
    return [
        {
            "messages": [
                {"role": "user", "content": " ".join(words[i % 9 : i % 9 + 2 + i % 5])},
                {"role": "assistant", "content": " ".join(words[(3 * i) % 11 : (3 * i) % 11 + 1 + i % 7])},
            ]
        }
        for i in range(count)
    ]


def pairs_of(count: int) -> list[dict[str, Any]]:
    """Preference pairs of various lengths; the chosen answers have words of their own."""
    return [
        {
            "prompt": row["messages"][0]["content"],
            "chosen": row["messages"][1]["content"] + " fox" * (1 + i % 3),
            "rejected": "dog " * (1 + i % 2) + row["messages"][1]["content"],
        }
        for i, row in enumerate(rows_of(count))
    ]


def labelled_of(count: int) -> list[dict[str, Any]]:
    """Answers with a label, from the same pairs."""
    return [
        {"prompt": row["prompt"], "completion": row["chosen" if i % 2 else "rejected"], "label": i % 2 == 1}
        for i, row in enumerate(pairs_of(count))
    ]


def prompts_of(count: int) -> list[dict[str, Any]]:
    """Prompts of various lengths whose answers have to hold a letter: a random model gets some right."""
    return [
        {
            "prompt": row["messages"][0]["content"],
            "checker": "regex",
            "target": {"pattern": "[aeiou]" if i % 2 else "e"},
        }
        for i, row in enumerate(rows_of(count))
    ]


def save_dataset(path: Path, rows: list[Any], row_format: str = "messages", weight: float = 1.0) -> DatasetInput:
    data = b"".join(row if isinstance(row, bytes) else json.dumps(row).encode() + b"\n" for row in rows)
    path.write_bytes(data)
    return DatasetInput.model_validate(
        {
            "ref": "data@1",
            "path": str(path),
            "sha256": hashlib.sha256(data).hexdigest(),
            "format": row_format,
            "weight": weight,
        }
    )


def make_task(
    tmp_path: Path, kind: str = "ift", base: ModelInput | None = None, rows: list[Any] | None = None, **spec: Any
) -> TrainTask:
    """A small training task with its files under `tmp_path`; `spec` overrides options."""
    if base is None:
        base = save_base(tmp_path / "base", is_chat=kind != "ift")
    is_unpaired = spec.get("loss", {}).get("type") == "kto"
    row_format = {"dpo": "preference", "reward": "preference", "grpo": "prompts", "ppo": "prompts"}.get(
        kind, "messages"
    )
    row_format = "unpaired" if is_unpaired else row_format
    made = {"messages": rows_of, "preference": pairs_of, "unpaired": labelled_of, "prompts": prompts_of}[row_format](24)
    dataset = save_dataset(tmp_path / "data.jsonl", made if rows is None else rows, row_format)
    options = {
        "kind": kind,
        "base": "tiny@1",
        "output": "tiny-out",
        "data": [{"dataset": "data@1"}],
        "duration": {"type": "steps", "max_steps": 6},
        "batch": {"num_rows": 4, "micro_tokens": 64, "max_tokens": 128},
        "optimizer": {"learning_rate": 1e-3},
        "checkpoint": {"every_steps": 2},
        **spec,
    }
    return TrainTask.model_validate(
        {"type": "train", "job": "j1", "attempt": 1, "spec": options, "base": base, "datasets": [dataset]}
    )
