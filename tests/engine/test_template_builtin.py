"""The built-in templates: their text, their tokens, and that a base is made into a model of each."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from posttrain.engine.data.builtin import BUILTIN
from posttrain.engine.data.encode import Encoder
from posttrain.engine.data.examples import Example
from posttrain.engine.data.template import ChatTemplate, builtin_template
from posttrain.engine.errors import TemplateError
from posttrain.engine.methods import METHODS
from posttrain.engine.models import load, load_tokenizer, own_template
from posttrain.engine.spec import BuiltinTemplate, parse_spec
from posttrain.evals.prompts import turn_marks
from tests.engine.test_run import LORA, succeeded
from tests.engine.tiny import END, make_task, tiny_tokenizer

TOOLS = [{"name": "f", "description": "d", "parameters": {"type": "object"}}]
TALK: list[dict[str, Any]] = [
    {"role": "system", "content": "be quick."},
    {"role": "user", "content": "what is it?"},
    {
        "role": "assistant",
        "content": "wait.",
        "tool_calls": [{"name": "f", "arguments": {"x": "é"}}, {"name": "f", "arguments": {}}],
    },
    {"role": "tool", "content": "5"},
    {"role": "tool", "content": "6"},
    {"role": "assistant", "content": "it is five."},
    {"role": "user", "content": "why?"},
]
TOOL = '{"name":"f","description":"d","parameters":{"type":"object"}}'
CALLS = (
    'wait.\n<tool_call>{"name":"f","arguments":{"x":"é"}}</tool_call>\n'
    '<tool_call>{"name":"f","arguments":{}}</tool_call>'
)
TEXTS = {
    "chatml": f"<|im_start|>system\n# Tools\n{TOOL}<|im_end|>\n<|im_start|>system\nbe quick.<|im_end|>\n"
    f"<|im_start|>user\nwhat is it?<|im_end|>\n<|im_start|>assistant\n⟦{CALLS}<|im_end|>⟧\n"
    "<|im_start|>tool\n5<|im_end|>\n<|im_start|>tool\n6<|im_end|>\n"
    "<|im_start|>assistant\n⟦it is five.<|im_end|>⟧\n"
    "<|im_start|>user\nwhy?<|im_end|>\n<|im_start|>assistant\n",
    "llama3": f"{END}<|start_header_id|>system<|end_header_id|>\n\n# Tools\n{TOOL}<|eot_id|>"
    "<|start_header_id|>system<|end_header_id|>\n\nbe quick.<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nwhat is it?<|eot_id|>"
    f"<|start_header_id|>assistant<|end_header_id|>\n\n⟦{CALLS}<|eot_id|>⟧"
    "<|start_header_id|>ipython<|end_header_id|>\n\n5<|eot_id|>"
    "<|start_header_id|>ipython<|end_header_id|>\n\n6<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n⟦it is five.<|eot_id|>⟧"
    "<|start_header_id|>user<|end_header_id|>\n\nwhy?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    "zephyr": f"<|system|>\n# Tools\n{TOOL}</s>\n<|system|>\nbe quick.</s>\n<|user|>\nwhat is it?</s>\n"
    f"<|assistant|>\n⟦{CALLS}</s>⟧\n<|tool|>\n5</s>\n<|tool|>\n6</s>\n<|assistant|>\n⟦it is five.</s>⟧\n"
    "<|user|>\nwhy?</s>\n<|assistant|>\n",
    "phi": f"<|system|>\n# Tools\n{TOOL}<|end|>\n<|system|>\nbe quick.<|end|>\n<|user|>\nwhat is it?<|end|>\n"
    f"<|assistant|>\n⟦{CALLS}<|end|>⟧\n<|tool|>\n5<|end|>\n<|tool|>\n6<|end|>\n<|assistant|>\n⟦it is five.<|end|>⟧\n"
    "<|user|>\nwhy?<|end|>\n<|assistant|>\n",
    "gemma": f"{END}<start_of_turn>user\n# Tools\n{TOOL}\n\nbe quick.\n\nwhat is it?<end_of_turn>\n"
    f"<start_of_turn>model\n⟦{CALLS}<end_of_turn>⟧\n"
    "<start_of_turn>user\n<tool_response>5</tool_response><end_of_turn>\n"
    "<start_of_turn>user\n<tool_response>6</tool_response><end_of_turn>\n"
    "<start_of_turn>model\n⟦it is five.<end_of_turn>⟧\n"
    "<start_of_turn>user\nwhy?<end_of_turn>\n<start_of_turn>model\n",
    "mistral": f"{END}[AVAILABLE_TOOLS]{TOOL}[/AVAILABLE_TOOLS][SYSTEM_PROMPT]be quick.[/SYSTEM_PROMPT]"
    f"[INST]what is it?[/INST]⟦{CALLS}</s>⟧[TOOL_RESULTS]5[/TOOL_RESULTS][TOOL_RESULTS]6[/TOOL_RESULTS]"
    "⟦it is five.</s>⟧[INST]why?[/INST]",
}


def prepared(name: str, kind: str = "ift", tokenizer: Any = None) -> tuple[Any, ChatTemplate, list[int]]:
    """A tokenizer as a technique leaves it, with the template and the ids of its tokens."""
    spec: Any = parse_spec(
        {
            "kind": kind,
            "base": "b@1",
            "output": "o",
            "data": [{"dataset": "d@1"}],
            "template": {"type": "builtin", "name": name},
        }
    )
    made = tiny_tokenizer() if tokenizer is None else tokenizer
    return made, *METHODS[kind](spec).prepare_tokenizer(made)


def test_the_spec_names_what_there_is() -> None:
    assert set(get_args(BuiltinTemplate.model_fields["name"].annotation)) == set(BUILTIN) == set(TEXTS)


@pytest.mark.parametrize("name", BUILTIN)
def test_text_and_trained_spans(name: str) -> None:
    text, spans = builtin_template(name, {"bos_token": END}).render_marked(TALK, TOOLS, add_generation_prompt=True)
    for start, end in reversed(spans):
        text = f"{text[:start]}⟦{text[start:end]}⟧{text[end:]}"
    assert text == TEXTS[name]


@pytest.mark.parametrize("name", BUILTIN)
def test_a_base_becomes_a_model_of_the_template(name: str) -> None:
    made, template, ids = prepared(name)
    assert made.convert_ids_to_tokens(ids) == sorted(BUILTIN[name].tokens, key=made.convert_tokens_to_ids)
    assert all(made.added_tokens_decoder[index].special for index in ids)
    assert (made.eos_token, made.pad_token) == (BUILTIN[name].stop_token, END)
    assert own_template(made).digest == template.digest == builtin_template(name).digest  # type: ignore[union-attr]
    plain = ChatTemplate(re.sub(r"\{%- (end)?generation -%\}\n", "", template.text), template.special_tokens)
    rows = [
        Encoder(made, one, (made.eos_token_id,)).row(Example(TALK, TOOLS), "all_turns") for one in (template, plain)
    ]
    assert rows[0] == rows[1], "tags and prefixes agree, so no turn changes when others follow"
    trained = [token for token, is_target in zip(rows[0].ids, rows[0].is_target, strict=True) if is_target]
    assert made.decode(trained) == "".join(re.findall("⟦(.*?)⟧", TEXTS[name], re.DOTALL))


@pytest.mark.parametrize("name", BUILTIN)
def test_a_message_cannot_forge_a_turn(name: str) -> None:
    made, template, ids = prepared(name)
    encoder = Encoder(made, template, (made.eos_token_id,))
    counts = []
    for text in ("x", "x".join(["", *BUILTIN[name].tokens, ""])):
        prompt = encoder.prompt([{"role": "user", "content": text}])
        counts.append(sum(index in ids for index in prompt))
        assert text in made.decode(prompt)
    assert counts[0] == counts[1]


@pytest.mark.parametrize("name", BUILTIN)
@pytest.mark.parametrize("as_text", [False, True])
def test_transformers_renders_the_same_from_openai_messages(name: str, as_text: bool) -> None:
    made, _, _ = prepared(name)
    given = json.loads(json.dumps(TALK))
    for call in given[2]["tool_calls"]:
        arguments = call["arguments"]
        call |= {"type": "function", "function": {**call, "arguments": arguments}}
        if as_text:
            call["function"]["arguments"] = json.dumps(arguments, ensure_ascii=False, separators=(",", ":"))
        del call["name"], call["arguments"]
    tools = [{"type": "function", "function": tool} for tool in TOOLS]
    text = made.apply_chat_template(given, tools=tools, tokenize=False, add_generation_prompt=True)
    assert text == re.sub("[⟦⟧]", "", TEXTS[name])


@pytest.mark.parametrize(
    ("name", "marks"),
    [
        ("llama3", ["<|eot_id|>", "<|start_header_id|>user<|end_header_id|>"]),
        ("zephyr", ["</s>", "<|user|>"]),
        ("phi", ["<|end|>", "<|user|>"]),
        ("gemma", ["<end_of_turn>", "<start_of_turn>user"]),
        ("mistral", ["</s>", "[INST]"]),
    ],
)
def test_evaluations_find_where_an_answer_ends(name: str, marks: list[str]) -> None:
    assert turn_marks(builtin_template(name))[:2] == marks


def test_sft_wants_the_tokens_and_keeps_them() -> None:
    with pytest.raises(TemplateError, match=r"lacks tokens of the built-in template llama3: <\|start_header_id\|>, "):
        prepared("llama3", "sft")
    made, template, ids = prepared("llama3", "sft", tokenizer=prepared("llama3")[0])
    assert (made.eos_token, made.chat_template, ids) == ("<|eot_id|>", template.text, [])


def test_a_template_written_for_bare_tools_and_calls_still_works() -> None:
    """As our own chatml was once."""
    text = (
        "{% for t in tools %}{{ t.name }}:{{ t['description'] }}:{{ t.parameters | tojson }}{% endfor %}"
        "{% for m in messages %}{% for c in m.tool_calls or [] %}{{ c.name }}{{ c.arguments | tojson }}{% endfor %}"
        "{% endfor %}"
    )
    assert ChatTemplate(text).render(TALK, TOOLS) == 'f:d:{"type": "object"}f{"x": "é"}f{}'


@pytest.mark.parametrize(("name", "adapter"), [("mistral", {"type": "full"}), ("llama3", LORA)])
def test_an_attempt_trains_and_saves_the_templates_tokens(tmp_path: Path, name: str, adapter: dict[str, Any]) -> None:
    """Rows of all of its tokens move, under LoRA too; the output stops at its stop token and asks as it was trained."""
    steps = {"duration": {"type": "steps", "max_steps": 2}, "optimizer": {"learning_rate": 1e-2}}
    task = make_task(tmp_path, "ift", template={"type": "builtin", "name": name}, adapter=adapter, **steps)
    record = succeeded(task, tmp_path / "a1")
    is_lora = adapter["type"] == "lora"
    output = str(tmp_path / "a1" / "output")
    parts = {"adapters": [output]} if is_lora else {"path": output}
    loaded = load(task.base.model_copy(update=parts), "float32")
    made = loaded.tokenizer if not is_lora else load_tokenizer(task.base.model_copy(update={"path": output}))
    saved = own_template(made)
    assert saved is not None
    assert saved.digest == record.summary["template_digest"]
    assert made.eos_token == BUILTIN[name].stop_token
    assert made.eos_token_id in loaded.stop_ids
    ids = made.convert_tokens_to_ids(list(BUILTIN[name].tokens))
    rows = loaded.model.module.get_input_embeddings().weight[ids]
    assert torch.pdist(rows).min() > 0, "each token has a row of its own"
