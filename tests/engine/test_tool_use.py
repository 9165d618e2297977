"""Tool-use tuning: calls and answers are trained and nothing else, wrong calls are named, and runs repeat exactly."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from posttrain.engine.data.encode import Encoder
from posttrain.engine.data.examples import AnyExample, Example, LabelledExample, Message, PairExample
from posttrain.engine.data.template import BUILTIN, CHATML
from posttrain.engine.data.validate import iter_examples, validate_file
from posttrain.engine.errors import DataError, TemplateError
from posttrain.engine.events import Note
from posttrain.engine.methods import Method, method_of
from posttrain.engine.methods.tool_use import ToolUseMethod
from posttrain.engine.models import load_tokenizer, own_template
from posttrain.engine.run import run_training
from posttrain.engine.spec import ToolUseSpec
from tests.engine.pairs import spec_of
from tests.engine.styles import source, tokenizer
from tests.engine.test_run import events_of, failed, kill_after, losses_of, succeeded, with_task
from tests.engine.tiny import make_task, save_base, tiny_tokenizer

DATA = Path(os.environ.get("POSTTRAIN_DATA", "../shared/data"))
TOOLS = [
    {
        "name": "add",
        "description": "",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
            "required": ["a", "b"],
        },
    }
]
TALK: list[dict[str, Any]] = [
    {"role": "user", "content": "2 + 3?"},
    {"role": "assistant", "content": "", "tool_calls": [{"name": "add", "arguments": {"a": 2, "b": 3}}]},
    {"role": "tool", "content": "5"},
    {"role": "assistant", "content": "five."},
    {"role": "user", "content": "1 + 1 and 4 + 4?"},
    {
        "role": "assistant",
        "content": "wait.",
        "tool_calls": [
            {"name": "add", "arguments": {"a": 1, "b": 1}},
            {"name": "add", "arguments": {"a": 4, "b": 4}},
        ],
    },
    {"role": "tool", "content": "2"},
    {"role": "tool", "content": "8"},
    {"role": "assistant", "content": "two, eight."},
    {"role": "user", "content": "call me."},
    {"role": "assistant", "content": "no tool can."},
]
TOKENIZER = tiny_tokenizer(is_chat=True)


def method(**options: Any) -> ToolUseMethod:
    return ToolUseMethod(
        ToolUseSpec.model_validate({"base": "b@1", "output": "o", "data": [{"dataset": "d@1"}], **options})
    )


def chat_tokenizer(template: str) -> Any:
    made = tiny_tokenizer(is_chat=True)
    made.chat_template = template
    return made


def encoder_of(made: Method, from_tokenizer: Any) -> Encoder:
    template, _ = made.prepare_tokenizer(from_tokenizer)
    return Encoder(from_tokenizer, template, (from_tokenizer.eos_token_id,))


# Pieces of text with 1 where they are trained; each is tokenized by itself, so borders are the tokens' own.
S, E = ("<|im_start|>", 0), ("<|im_end|>", 1)
SCHEMA = json.dumps(TOOLS[0], separators=(",", ":"))
CHATML_PIECES = [
    S, (f"system\n# Tools\n{SCHEMA}", 0), ("<|im_end|>", 0), ("\n", 0),
    S, ("user\n2 + 3?", 0), ("<|im_end|>", 0), ("\n", 0),
    S, ("assistant\n", 0), ('<tool_call>{"name":"add","arguments":{"a":2,"b":3}}</tool_call>', 1), E, ("\n", 0),
    S, ("tool\n5", 0), ("<|im_end|>", 0), ("\n", 0),
    S, ("assistant\n", 0), ("five.", 1), E, ("\n", 0),
    S, ("user\n1 + 1 and 4 + 4?", 0), ("<|im_end|>", 0), ("\n", 0),
    S, ("assistant\n", 0),
    ('wait.\n<tool_call>{"name":"add","arguments":{"a":1,"b":1}}</tool_call>\n'
     '<tool_call>{"name":"add","arguments":{"a":4,"b":4}}</tool_call>', 1), E, ("\n", 0),
    S, ("tool\n2", 0), ("<|im_end|>", 0), ("\n", 0),
    S, ("tool\n8", 0), ("<|im_end|>", 0), ("\n", 0),
    S, ("assistant\n", 0), ("two, eight.", 1), E, ("\n", 0),
    S, ("user\ncall me.", 0), ("<|im_end|>", 0), ("\n", 0),
    S, ("assistant\n", 0), ("no tool can.", 1), E,
]  # fmt: skip
QWEN_PIECES = [
    S, ("system\nYou are a helpful assistant.\n\n# Tools\n\nYou may call these functions:\n<tools>\n"
        f'{json.dumps({"type": "function", "function": TOOLS[0]})}\n</tools>', 0), ("<|im_end|>", 0), ("\n", 0),
    S, ("user\n2 + 3?", 0), ("<|im_end|>", 0), ("\n", 0),
    S, ("assistant\n", 0),
    ('<tool_call>\n{"name": "add", "arguments": {"a": 2, "b": 3}}\n</tool_call>', 1), E, ("\n", 0),
    S, ("user\n<tool_response>\n5\n</tool_response>", 0), ("<|im_end|>", 0), ("\n", 0),
    S, ("assistant\n", 0), ("five.", 1), E, ("\n", 0),
    S, ("user\n1 + 1 and 4 + 4?", 0), ("<|im_end|>", 0), ("\n", 0),
    S, ("assistant\n", 0),
    ('wait.\n<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": 1}}\n</tool_call>\n'
     '<tool_call>\n{"name": "add", "arguments": {"a": 4, "b": 4}}\n</tool_call>', 1), E, ("\n", 0),
    S, ("user\n<tool_response>\n2\n</tool_response>\n<tool_response>\n8\n</tool_response>", 0),
    ("<|im_end|>", 0), ("\n", 0),
    S, ("assistant\n", 0), ("two, eight.", 1), E, ("\n", 0),
    S, ("user\ncall me.", 0), ("<|im_end|>", 0), ("\n", 0),
    S, ("assistant\n", 0), ("no tool can.", 1), E,
]  # fmt: skip


@pytest.mark.parametrize("is_tagged", [True, False])
@pytest.mark.parametrize("style", ["chatml", "qwen"])
def test_calls_and_answers_are_trained_and_no_tools_answer(style: str, is_tagged: bool) -> None:
    if style == "chatml":
        text, pieces, used = CHATML, CHATML_PIECES, tiny_tokenizer(is_chat=True)
        text = text if is_tagged else text.replace("{%- generation -%}\n", "").replace("{%- endgeneration -%}\n", "")
    else:
        text, pieces, used = source("qwen", is_tagged), QWEN_PIECES, tokenizer("qwen")
    used.chat_template = text
    ids: list[int] = []
    mask: list[int] = []
    for piece, is_trained in pieces:
        tokens = used(piece, add_special_tokens=False)["input_ids"]
        ids += tokens
        mask += [is_trained] * len(tokens)
    made = method()
    row = made.encode(Example(TALK, TOOLS), encoder_of(made, used), "d@1", 1)
    assert row is not None
    assert list(zip(used.convert_ids_to_tokens(list(row.ids)), row.is_target, strict=True)) == list(
        zip(used.convert_ids_to_tokens(ids), mask, strict=True)
    )
    last = method(loss_on="last_turn")
    row = last.encode(Example(TALK, TOOLS), encoder_of(last, used), "d@1", 1)
    assert row is not None
    start = len(mask) - mask[::-1].index(0)
    assert list(row.ids) == ids
    assert list(row.is_target) == [0] * start + [1] * (len(mask) - start)


def bad(**changes: Any) -> Example:
    """The conversation's first exchange with another call."""
    call = {"name": "add", "arguments": {"a": 2, "b": 3}, **changes}
    return Example([TALK[0], {"role": "assistant", "content": "", "tool_calls": [call]}, *TALK[2:4]], TOOLS)


def test_wrong_calls_are_named_by_row_and_field_and_listed_up_to_ten() -> None:
    made = method()
    encoder = encoder_of(made, tiny_tokenizer(is_chat=True))
    assert made.encode(bad(), encoder, "d@1", 1) is not None
    rows = [bad(arguments={"a": 2}), bad(name="sub"), bad(arguments={"a": "2", "b": 3}), Example(TALK[:1] + TALK[3:4])]
    for number, row in enumerate(rows * 4, start=2):
        assert made.encode(row, encoder, "d@1", number) is None
    with pytest.raises(DataError) as caught:
        made.report("d@1")
    assert str(caught.value).startswith(
        "d@1: 16 of 17 rows cannot be used for tool use: "
        "row 2, field messages[1].tool_calls[0].arguments: lacks b; "
        "row 3, field messages[1].tool_calls[0].name: no tool 'sub' is on offer (add); "
        "row 4, field messages[1].tool_calls[0].arguments.a: must be integer, not text; "
        "row 5, field tools: no tools are on offer (require_tools: false allows that); row 6"
    )
    assert str(caught.value).endswith("; and 6 more")
    assert "on_bad_call" in caught.value.hint


def test_wrong_calls_can_be_left_out_and_are_counted() -> None:
    made = method(on_bad_call="skip")
    encoder = encoder_of(made, tiny_tokenizer(is_chat=True))
    decline = Example([TALK[0], TALK[10]], TOOLS)
    rows = [bad(), bad(name="sub"), decline, Example(TALK, TOOLS), decline]
    kept = [made.encode(row, encoder, "d@1", number) for number, row in enumerate(rows, start=1)]
    assert [row.number if row else None for row in kept] == [1, None, 3, 4, 5]
    shares, left_out = made.report("d@1")
    assert shares.message == (
        "d@1: 50% of 4 rows call a tool (25% several at once), 50% are offered tools and call none"
    )
    assert left_out.level == "warning"
    assert "1 rows were left out: row 2, field messages[1].tool_calls[0].name" in left_out.message
    assert made.encode(decline, encoder, "e@1", 1) is not None
    (again,) = made.report("e@1")
    assert "0% of 1 rows call a tool" in again.message, "each source is counted by itself"
    assert made.encode(bad(name="sub"), encoder, "f@1", 7) is None
    _, left_out = made.report("f@1")
    assert "1 rows were left out: row 7, " in left_out.message, "and its bad rows are its own"


def test_rows_without_tools_are_trained_if_they_may_be() -> None:
    made = method(require_tools=False)
    encoder = encoder_of(made, tiny_tokenizer(is_chat=True))
    row = made.encode(Example([TALK[0], TALK[3]]), encoder, "d@1", 1)
    assert row is not None
    assert TOKENIZER.decode([t for t, m in zip(row.ids, row.is_target, strict=True) if m]) == "five.<|im_end|>"


@pytest.mark.parametrize("gap", ["", "\n"])
def test_calls_that_stand_as_text_are_read_and_checked(gap: str) -> None:
    made = method()
    encoder = encoder_of(made, tiny_tokenizer(is_chat=True))

    def said(content: str) -> Example:
        return Example([TALK[0], {"role": "assistant", "content": content}, *TALK[2:4]], TOOLS)

    call = f'<tool_call>{gap}{{"name": "add", "arguments": {{"a": 2, "b": 3}}}}{gap}</tool_call>'
    assert made.encode(said(call), encoder, "d@1", 1) == made.encode(bad(), encoder, "d@1", 1)
    assert made.encode(said(call.replace("3", '"x"')), encoder, "d@1", 2) is None
    assert made.encode(said(call.removesuffix("</tool_call>")), encoder, "d@1", 3) is None
    with pytest.raises(
        DataError, match=r"row 2, field .*arguments.b: must be integer.*row 3, field messages\[1\].content"
    ):
        made.report("d@1")


def test_a_call_as_text_beside_calls_is_named_and_not_trained_unchecked() -> None:
    made = method()
    encoder = encoder_of(made, tiny_tokenizer(is_chat=True))
    talk = [dict(message) for message in TALK]
    talk[1]["content"] = '<tool_call>{"name": "no_such_tool", "arguments": {}}</tool_call>'
    assert made.encode(Example(talk, TOOLS), encoder, "d@1", 1) is None
    with pytest.raises(DataError) as said:
        made.report("d@1")
    assert "row 1, field messages[1].content: has a call as text (<tool_call>) beside tool_calls" in str(said.value)


def test_a_template_that_drops_calls_is_an_error_and_a_call_format_the_way_out() -> None:
    silent = source("chatml", True)
    made = method()
    with pytest.raises(TemplateError, match="does not write the tools on offer"):
        made.encode(bad(), encoder_of(made, chat_tokenizer(silent)), "d@1", 1)
    for name, begins in (("hermes", "<tool_call>\n"), ("llama3", '{"name": "add", "parameters"'), ("openai", "[{")):
        made, used = method(call_format=name), chat_tokenizer(silent)
        encoder = encoder_of(made, used)
        row = made.encode(bad(), encoder, "d@1", 1)
        assert row is not None
        assert used.decode([t for t, m in zip(row.ids, row.is_target, strict=True) if m]).startswith(begins)
        saved = own_template(used)
        assert saved is not None
        again = Encoder(used, saved, (used.eos_token_id,))
        prompt = again.prompt(bad().messages[:1], TOOLS)
        assert list(row.ids[: len(prompt)]) == prompt, "whoever loads the model asks as it was trained"


@pytest.mark.parametrize(
    "options",
    [
        {"kind": "sft"},
        {"kind": "ift", "template": {"type": "own"}},
        {"kind": "dpo"},
        {"kind": "reward"},
        {"kind": "dpo", "loss": {"type": "kto"}},
    ],
    ids=["sft", "ift", "dpo", "reward", "kto"],
)
def test_no_technique_trains_calls_that_its_template_drops(options: dict[str, Any]) -> None:
    """An answer that is a call would be trained as an empty one."""
    ask, called = TALK[:1], TALK[1:2]
    assert called[0]["tool_calls"]
    plain = [{"role": "assistant", "content": "no"}]

    def row(answer: list[Message], tools: list[dict[str, Any]]) -> AnyExample:
        if options["kind"] in ("sft", "ift"):
            return Example([*ask, *answer], tools)
        if "loss" in options:
            return LabelledExample(ask, answer, True, tools)
        return PairExample(ask, [{"role": "assistant", "content": "yes"}], answer, tools)

    made, used = method_of(spec_of(**options)), chat_tokenizer(source("chatml", True))
    encoder = encoder_of(made, used)
    assert made.encode(row(plain, []), encoder, "d@1", 1) is not None
    for answer, tools, missing in ((called, [], "a call's name, arguments"), (plain, TOOLS, "the tools on offer")):
        with pytest.raises(TemplateError, match=f"d@1 row 2: the chat template does not write {missing}$") as caught:
            made.encode(row(answer, tools), encoder, "d@1", 2)
        assert "kind: tool_use" in caught.value.hint


# -- attempts ---------------------------------------------------------------------------------------------------------


def tool_rows(count: int) -> list[dict[str, Any]]:
    """Calls, parallel calls and rows that call none, of various lengths."""
    tools = [{"name": "f", "parameters": {"type": "object", "properties": {"x": {"type": "integer"}}}}]
    rows = []
    for i in range(count):
        talk: list[dict[str, Any]] = [{"role": "user", "content": "what is it?"[: 4 + i % 8]}]
        if i % 3:
            calls = [{"name": "f", "arguments": {"x": i + j}} for j in range(i % 3)]
            talk += [{"role": "assistant", "content": "", "tool_calls": calls}]
            talk += [{"role": "tool", "content": str(i)} for _ in calls]
        rows.append({"messages": [*talk, {"role": "assistant", "content": "five."}], "tools": tools})
    return rows


def tool_task(folder: Path, **options: Any) -> Any:
    batch = {"num_rows": 4, "micro_tokens": 256, "max_tokens": 256}
    return make_task(folder, "tool_use", **{"rows": tool_rows(12), "batch": batch, **options})


def test_resumed_equals_uninterrupted_to_the_last_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = tool_task(tmp_path)
    whole = succeeded(task, tmp_path / "whole")
    with monkeypatch.context() as patch:
        kill_after(patch, 5)
        assert run_training(task, tmp_path / "a1").code == "INTERNAL"
    resumed = with_task(task, attempt=2, resume_from=str(tmp_path / "a1" / "checkpoints" / "step-00000004"))
    assert succeeded(resumed, tmp_path / "a2").summary["loss"] == whole.summary["loss"]
    expected, found = losses_of(tmp_path / "whole"), losses_of(tmp_path / "a2")
    assert sorted(found) == [5, 6]
    assert all(found[step] == expected[step] for step in found)
    weights = "model.safetensors"
    assert (tmp_path / "whole/output" / weights).read_bytes() == (tmp_path / "a2/output" / weights).read_bytes()


def test_eight_times_one_is_one_times_eight(tmp_path: Path) -> None:
    whole = tool_task(tmp_path, batch={"num_rows": 8, "micro_tokens": 4096, "max_tokens": 256})
    parts = with_task(
        whole, spec={**whole.spec.model_dump(), "batch": {"num_rows": 8, "micro_tokens": 1, "max_tokens": 256}}
    )
    succeeded(whole, tmp_path / "a1")
    succeeded(parts, tmp_path / "a2")
    for step, values in losses_of(tmp_path / "a1").items():
        assert losses_of(tmp_path / "a2")[step]["loss"] == pytest.approx(values["loss"], rel=1e-5)


def test_an_attempt_notes_shares_and_fails_on_wrong_calls(tmp_path: Path) -> None:
    rows = tool_rows(6)
    rows[4]["messages"][1]["tool_calls"][0]["arguments"] = {"x": "one", "y": 1}
    task = tool_task(tmp_path, rows=rows)
    record = failed(task, tmp_path / "a1")
    assert record.code == "BAD_DATA"
    assert "row 5, field messages[1].tool_calls[0].arguments.x: must be integer, not text" in record.message
    succeeded(with_task(task, spec={**task.spec.model_dump(), "on_bad_call": "skip"}), tmp_path / "a2")
    notes = [note.message for note in events_of(tmp_path / "a2", Note)]
    assert any("60% of 5 rows call a tool (40% several at once), 40%" in note for note in notes)
    assert any("1 rows were left out: row 5" in note for note in notes)


def test_the_format_that_was_taught_is_saved(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base", is_chat=True)
    (Path(base.path) / "chat_template.jinja").write_text(source("chatml", False))
    batch = {"num_rows": 4, "micro_tokens": 256, "max_tokens": 256, "overlong": "skip"}
    task = tool_task(tmp_path, base=base, call_format="llama3", batch=batch)
    record = succeeded(task, tmp_path / "a2")
    saved = own_template(load_tokenizer(base.model_copy(update={"path": str(tmp_path / "a2" / "output")})))
    assert saved is not None
    assert saved.digest == record.summary["template_digest"]
    assert '{"name": "f", "parameters": {"x": 1}}<|im_end|>' in saved.render(tool_rows(2)[1]["messages"])


def test_a_built_in_template_needs_its_tokens(tmp_path: Path) -> None:
    record = failed(tool_task(tmp_path, template={"type": "builtin", "name": "gemma"}), tmp_path / "a1")
    assert record.code == "BAD_TEMPLATE"
    assert ", ".join(BUILTIN["gemma"].tokens) in record.message


# -- public data ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "options", "num_used", "named"),
    [
        (
            "llamafactory_demo/glaive_toolcall_en_demo.jsonl",
            {"require_tools": False},
            299,
            "1 rows were left out: row 260, field messages[3].tool_calls[0].arguments.calories_per_item: "
            "must be number, not a list",
        ),
        (
            "seal_tools/finetune_dev_400.jsonl",
            {},
            0,
            "400 rows were left out: row 1, field tools: no tools are on offer",
        ),
    ],
)
def test_every_row_of_public_data_is_encoded_or_named(
    path: str, options: dict[str, Any], num_used: int, named: str
) -> None:
    """Glaive's has a call that its schema does not take; Seal-Tools' writes its tools and calls into the text."""
    if not (DATA / path).is_file():
        pytest.skip(f"no {path} in {DATA} (POSTTRAIN_DATA)")
    report = validate_file(DATA / path)
    assert report.is_valid
    made = method(on_bad_call="skip", **options)
    encoder = encoder_of(made, tiny_tokenizer(is_chat=True))
    rows = [
        made.encode(example, encoder, "d@1", number)
        for number, example in iter_examples(DATA / path, report.format)  # type: ignore[arg-type]
    ]
    assert sum(row is not None and row.num_targets > 0 for row in rows) == num_used
    shares, left_out = made.report("d@1")
    assert left_out.message.startswith(f"d@1: {named}")
    assert f"of {num_used} rows" in shares.message
