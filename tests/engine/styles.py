"""Chat templates of nine model families, written from their public description (tests/engine/templates/), with
conversations and the text that each is to become. What is trained stands in brackets: ⟦...⟧."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, trainers
from transformers import PreTrainedTokenizerFast

from tests.engine.tiny import END, tiny_tokenizer

FOLDER = Path(__file__).parent / "templates"
ASK, ANSWER = "what is two plus three?", "it is five."
SINGLE: list[dict[str, Any]] = [{"role": "user", "content": ASK}, {"role": "assistant", "content": ANSWER}]
MULTI = [*SINGLE, {"role": "user", "content": "why?"}, {"role": "assistant", "content": "count:\n\n1 2 3 4 5"}]
SYSTEM = [{"role": "system", "content": "be quick."}, *MULTI]
TOOLS = [{"name": "f", "description": "d", "parameters": {"type": "object"}}]
CALL = {"name": "f", "arguments": {"x": 1}}
CALLS = [
    {"role": "user", "content": ASK},
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "content": "5"},
    {"role": "assistant", "content": ANSWER},
]
PARALLEL = [
    CALLS[0],
    {"role": "assistant", "content": "", "tool_calls": [CALL, {"name": "f", "arguments": {"x": "é"}}]},
    {"role": "tool", "content": "5"},
    {"role": "tool", "content": "6"},
    CALLS[3],
]
TALKS: dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]]]] = {
    "single": (SINGLE, []),
    "multi": (MULTI, []),
    "system": (SYSTEM, []),
    "calls": (CALLS, TOOLS),
    "parallel": (PARALLEL, TOOLS),
}
TOOL_JSON = '{"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}'


@dataclass(frozen=True)
class Style:
    """A family: its special tokens, what stops a turn, and conversations as text. A talk that is not in `texts` is
    one that the template refuses."""

    bos: str
    eos: str
    tokens: tuple[str, ...]
    stops: tuple[str, ...]
    texts: dict[str, str] = field(default_factory=dict)


STYLES = {
    "chatml": Style(
        END,
        "<|im_end|>",
        ("<|im_start|>",),
        ("<|im_end|>",),
        {
            "single": f"<|im_start|>user\n{ASK}<|im_end|>\n<|im_start|>assistant\n⟦{ANSWER}<|im_end|>⟧\n",
            "multi": f"<|im_start|>user\n{ASK}<|im_end|>\n<|im_start|>assistant\n⟦{ANSWER}<|im_end|>⟧\n"
            "<|im_start|>user\nwhy?<|im_end|>\n<|im_start|>assistant\n⟦count:\n\n1 2 3 4 5<|im_end|>⟧\n",
            "system": "<|im_start|>system\nbe quick.<|im_end|>\n"
            f"<|im_start|>user\n{ASK}<|im_end|>\n<|im_start|>assistant\n⟦{ANSWER}<|im_end|>⟧\n"
            "<|im_start|>user\nwhy?<|im_end|>\n<|im_start|>assistant\n⟦count:\n\n1 2 3 4 5<|im_end|>⟧\n",
        },
    ),
    "llama2": Style(
        "<s>",
        "</s>",
        (),
        ("</s>",),
        {
            "single": f"<s>[INST] {ASK} [/INST]⟦ {ANSWER} </s>⟧",
            "multi": f"<s>[INST] {ASK} [/INST]⟦ {ANSWER} </s>⟧<s>[INST] why? [/INST]⟦ count:\n\n1 2 3 4 5 </s>⟧",
            "system": f"<s>[INST] <<SYS>>\nbe quick.\n<</SYS>>\n\n{ASK} [/INST]⟦ {ANSWER} </s>⟧"
            "<s>[INST] why? [/INST]⟦ count:\n\n1 2 3 4 5 </s>⟧",
        },
    ),
    "llama3": Style(
        "<|begin_of_text|>",
        "<|eot_id|>",
        ("<|start_header_id|>", "<|end_header_id|>"),
        ("<|eot_id|>",),
        {
            "single": f"<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n{ASK}<|eot_id|>"
            f"<|start_header_id|>assistant<|end_header_id|>\n\n⟦{ANSWER}<|eot_id|>⟧",
            "multi": f"<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n{ASK}<|eot_id|>"
            f"<|start_header_id|>assistant<|end_header_id|>\n\n⟦{ANSWER}<|eot_id|>⟧"
            "<|start_header_id|>user<|end_header_id|>\n\nwhy?<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n⟦count:\n\n1 2 3 4 5<|eot_id|>⟧",
            "system": "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nbe quick.<|eot_id|>"
            f"<|start_header_id|>user<|end_header_id|>\n\n{ASK}<|eot_id|>"
            f"<|start_header_id|>assistant<|end_header_id|>\n\n⟦{ANSWER}<|eot_id|>⟧"
            "<|start_header_id|>user<|end_header_id|>\n\nwhy?<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n⟦count:\n\n1 2 3 4 5<|eot_id|>⟧",
            "calls": "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nEnvironment: ipython\n\n<|eot_id|>"
            "<|start_header_id|>user<|end_header_id|>\n\nGiven these functions, answer with a JSON call.\n\n"
            '{\n    "type": "function",\n    "function": {\n        "name": "f",\n        "description": "d",\n'
            '        "parameters": {\n            "type": "object"\n        }\n    }\n}\n\n'
            f"{ASK}<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
            '⟦{"name": "f", "parameters": {"x": 1}}<|eot_id|>⟧'
            '<|start_header_id|>ipython<|end_header_id|>\n\n"5"<|eot_id|>'
            f"<|start_header_id|>assistant<|end_header_id|>\n\n⟦{ANSWER}<|eot_id|>⟧",
        },
    ),
    "mistral": Style(
        "<s>",
        "</s>",
        (
            *(mark for name in ("INST", "AVAILABLE_TOOLS", "TOOL_RESULTS") for mark in (f"[{name}]", f"[/{name}]")),
            "[TOOL_CALLS]",
        ),
        ("</s>",),
        {
            "single": f"<s>[INST] {ASK}[/INST]⟦ {ANSWER}</s>⟧",
            "multi": f"<s>[INST] {ASK}[/INST]⟦ {ANSWER}</s>⟧[INST] why?[/INST]⟦ count:\n\n1 2 3 4 5</s>⟧",
            "system": f"<s>[INST] {ASK}[/INST]⟦ {ANSWER}</s>⟧[INST] be quick.\n\nwhy?[/INST]⟦ count:\n\n1 2 3 4 5</s>⟧",
            "calls": f"<s>[AVAILABLE_TOOLS] [{TOOL_JSON}][/AVAILABLE_TOOLS][INST] {ASK}[/INST]"
            '⟦[TOOL_CALLS] [{"name": "f", "arguments": {"x": 1}, "id": "call00000"}]</s>⟧'
            '[TOOL_RESULTS] {"content": 5, "call_id": "call00000"}[/TOOL_RESULTS]'
            f"⟦ {ANSWER}</s>⟧",
            "parallel": f"<s>[AVAILABLE_TOOLS] [{TOOL_JSON}][/AVAILABLE_TOOLS][INST] {ASK}[/INST]"
            '⟦[TOOL_CALLS] [{"name": "f", "arguments": {"x": 1}, "id": "call00000"}, '
            '{"name": "f", "arguments": {"x": "é"}, "id": "call00001"}]</s>⟧'
            '[TOOL_RESULTS] {"content": 5, "call_id": "call00000"}[/TOOL_RESULTS]'
            '[TOOL_RESULTS] {"content": 6, "call_id": "call00001"}[/TOOL_RESULTS]'
            f"⟦ {ANSWER}</s>⟧",
        },
    ),
    "gemma": Style(
        "<bos>",
        "<eos>",
        ("<start_of_turn>", "<end_of_turn>"),
        ("<eos>", "<end_of_turn>"),
        {
            "single": f"<bos><start_of_turn>user\n{ASK}<end_of_turn>\n<start_of_turn>model\n⟦{ANSWER}<end_of_turn>⟧\n",
            "multi": f"<bos><start_of_turn>user\n{ASK}<end_of_turn>\n"
            f"<start_of_turn>model\n⟦{ANSWER}<end_of_turn>⟧\n"
            "<start_of_turn>user\nwhy?<end_of_turn>\n"
            "<start_of_turn>model\n⟦count:\n\n1 2 3 4 5<end_of_turn>⟧\n",
        },
    ),
    "qwen": Style(
        "",
        "<|im_end|>",
        ("<|im_start|>",),
        ("<|im_end|>", END),
        {
            "single": "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
            f"<|im_start|>user\n{ASK}<|im_end|>\n<|im_start|>assistant\n⟦{ANSWER}<|im_end|>⟧\n",
            "multi": "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
            f"<|im_start|>user\n{ASK}<|im_end|>\n<|im_start|>assistant\n⟦{ANSWER}<|im_end|>⟧\n"
            "<|im_start|>user\nwhy?<|im_end|>\n<|im_start|>assistant\n⟦count:\n\n1 2 3 4 5<|im_end|>⟧\n",
            "system": "<|im_start|>system\nbe quick.<|im_end|>\n"
            f"<|im_start|>user\n{ASK}<|im_end|>\n<|im_start|>assistant\n⟦{ANSWER}<|im_end|>⟧\n"
            "<|im_start|>user\nwhy?<|im_end|>\n<|im_start|>assistant\n⟦count:\n\n1 2 3 4 5<|im_end|>⟧\n",
            "calls": "<|im_start|>system\nYou are a helpful assistant.\n\n# Tools\n\nYou may call these functions:\n"
            f"<tools>\n{TOOL_JSON}\n</tools><|im_end|>\n"
            f"<|im_start|>user\n{ASK}<|im_end|>\n<|im_start|>assistant\n"
            '⟦<tool_call>\n{"name": "f", "arguments": {"x": 1}}\n</tool_call><|im_end|>⟧\n'
            "<|im_start|>user\n<tool_response>\n5\n</tool_response><|im_end|>\n"
            f"<|im_start|>assistant\n⟦{ANSWER}<|im_end|>⟧\n",
            "parallel": "<|im_start|>system\nYou are a helpful assistant.\n\n# Tools\n\nYou may call these functions:\n"
            f"<tools>\n{TOOL_JSON}\n</tools><|im_end|>\n"
            f"<|im_start|>user\n{ASK}<|im_end|>\n<|im_start|>assistant\n"
            '⟦<tool_call>\n{"name": "f", "arguments": {"x": 1}}\n</tool_call>\n'
            '<tool_call>\n{"name": "f", "arguments": {"x": "é"}}\n</tool_call><|im_end|>⟧\n'
            "<|im_start|>user\n<tool_response>\n5\n</tool_response>\n<tool_response>\n6\n</tool_response><|im_end|>\n"
            f"<|im_start|>assistant\n⟦{ANSWER}<|im_end|>⟧\n",
        },
    ),
    "phi": Style(
        "<s>",
        END,
        ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
        (END, "<|end|>", "<|assistant|>"),
        {
            "single": f"<|user|>\n{ASK}<|end|>\n<|assistant|>\n⟦{ANSWER}<|end|>⟧\n{END}",
            "multi": f"<|user|>\n{ASK}<|end|>\n<|assistant|>\n⟦{ANSWER}<|end|>⟧\n"
            f"<|user|>\nwhy?<|end|>\n<|assistant|>\n⟦count:\n\n1 2 3 4 5<|end|>⟧\n{END}",
            "system": f"<|system|>\nbe quick.<|end|>\n<|user|>\n{ASK}<|end|>\n<|assistant|>\n⟦{ANSWER}<|end|>⟧\n"
            f"<|user|>\nwhy?<|end|>\n<|assistant|>\n⟦count:\n\n1 2 3 4 5<|end|>⟧\n{END}",
        },
    ),
    "zephyr": Style(
        "<s>",
        "</s>",
        (),
        ("</s>",),
        {
            "single": f"<|user|>\n{ASK}</s>\n<|assistant|>\n⟦{ANSWER}</s>⟧\n",
            "multi": f"<|user|>\n{ASK}</s>\n<|assistant|>\n⟦{ANSWER}</s>⟧\n"
            "<|user|>\nwhy?</s>\n<|assistant|>\n⟦count:\n\n1 2 3 4 5</s>⟧\n",
            "system": f"<|system|>\nbe quick.</s>\n<|user|>\n{ASK}</s>\n<|assistant|>\n⟦{ANSWER}</s>⟧\n"
            "<|user|>\nwhy?</s>\n<|assistant|>\n⟦count:\n\n1 2 3 4 5</s>⟧\n",
        },
    ),
    "deepseek": Style(
        "<｜begin▁of▁sentence｜>",
        "<｜end▁of▁sentence｜>",
        (
            *("<｜User｜>", "<｜Assistant｜>", "<｜tool▁sep｜>"),
            *(f"<｜tool▁{n}▁{side}｜>" for n in ("calls", "call", "outputs", "output") for side in ("begin", "end")),
        ),
        ("<｜end▁of▁sentence｜>",),
        {
            "single": f"<｜begin▁of▁sentence｜><｜User｜>{ASK}<｜Assistant｜>⟦{ANSWER}<｜end▁of▁sentence｜>⟧",
            "multi": f"<｜begin▁of▁sentence｜><｜User｜>{ASK}<｜Assistant｜>⟦{ANSWER}<｜end▁of▁sentence｜>⟧"
            "<｜User｜>why?<｜Assistant｜>⟦count:\n\n1 2 3 4 5<｜end▁of▁sentence｜>⟧",
            "system": "<｜begin▁of▁sentence｜>be quick."
            f"<｜User｜>{ASK}<｜Assistant｜>⟦{ANSWER}<｜end▁of▁sentence｜>⟧"
            "<｜User｜>why?<｜Assistant｜>⟦count:\n\n1 2 3 4 5<｜end▁of▁sentence｜>⟧",
            "calls": f"<｜begin▁of▁sentence｜><｜User｜>{ASK}<｜Assistant｜>"
            "⟦<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n"
            '```json\n{"x": 1}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜><｜end▁of▁sentence｜>⟧'
            "<｜tool▁outputs▁begin｜><｜tool▁output▁begin｜>5<｜tool▁output▁end｜><｜tool▁outputs▁end｜>"
            f"⟦{ANSWER}<｜end▁of▁sentence｜>⟧",
            "parallel": f"<｜begin▁of▁sentence｜><｜User｜>{ASK}<｜Assistant｜>"
            "⟦<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n"
            '```json\n{"x": 1}\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n'
            '```json\n{"x": "é"}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜><｜end▁of▁sentence｜>⟧'
            "<｜tool▁outputs▁begin｜><｜tool▁output▁begin｜>5<｜tool▁output▁end｜>\n"
            "<｜tool▁output▁begin｜>6<｜tool▁output▁end｜><｜tool▁outputs▁end｜>"
            f"⟦{ANSWER}<｜end▁of▁sentence｜>⟧",
        },
    ),
}


def source(name: str, is_tagged: bool) -> str:
    """The template's text, with its generation tags or without."""
    text = (FOLDER / f"{name}.jinja").read_text("utf-8").rstrip("\n")
    return text if is_tagged else re.sub(r"\{%- (end)?generation -%\}", "", text)


@functools.cache
def tokenizer(name: str, is_sentencepiece: bool = False) -> Any:
    """Byte-level BPE (or SentencePiece-like, as Llama 2's) with the family's special tokens."""
    style = STYLES[name]
    made = _sentencepiece() if is_sentencepiece else tiny_tokenizer()
    made.add_tokens(
        [AddedToken(text, special=True, normalized=False) for text in (*style.tokens, *style.stops, style.bos) if text],
        special_tokens=True,
    )
    made.bos_token, made.eos_token = style.bos or None, style.eos
    return made


def _sentencepiece() -> PreTrainedTokenizerFast:
    """Words begin with a visible space, which is also put before each text; what is unknown is spelt in bytes."""
    made = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    special = ["<unk>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=[*special, *(f"<0x{byte:02X}>" for byte in range(256))], show_progress=False
    )
    made.train_from_iterator([f"[INST] {ASK} [/INST] {ANSWER} why? <<SYS>> be quick."] * 4, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
