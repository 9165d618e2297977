"""A spec's file: what `init` writes, what `submit` reads, and how it says what is wrong."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_origin

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from posttrain.engine.spec import KINDS, parse_spec
from posttrain.service.cli import run
from posttrain.service.cli.demo import demo_spec
from posttrain.service.cli.specfile import SpecFileError, parse_path, read_spec
from posttrain.service.cli.template import alternatives, template
from posttrain.service.client.specs import path_text

_FOLDER = Path(__file__).parent.parent.parent / "examples"
EXAMPLES = sorted([*_FOLDER.glob("*.yaml"), *_FOLDER.glob("smollm2/*.yaml")])
GOOD = """\
kind: ift
base: tiny-base@1
output: bot
data:
  - dataset: rows@1
optimizer:
  learning_rate: 1e-3
"""


def read(text: str) -> dict[str, Any]:
    return read_spec(text.encode(), "x.yaml").checked()


def problems(text: str) -> list[str]:
    with pytest.raises(SpecFileError) as caught:
        read(text)
    *lines, hint = str(caught.value).splitlines()
    assert hint.startswith("hint: ")
    return lines


def test_a_good_spec_gets_its_defaults() -> None:
    spec = read(GOOD)
    assert parse_spec(spec) == parse_spec(yaml.safe_load(GOOD))
    assert spec["optimizer"]["learning_rate"] == 0.001
    assert spec["batch"]["num_rows"] == 32


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("learning_rate", "lerning_rate"), "7: optimizer.lerning_rate: no such option; did you mean 'learning_rate'?"),
        (("output: bot\n", ""), " output: this option is needed"),
        (("1e-3", "fast"), "7: optimizer.learning_rate: input should be a valid number, unable to parse string"),
        (("1e-3", "-1"), "7: optimizer.learning_rate: input should be greater than 0 (it is -1)"),
        (("1e-3", ".nan"), "7: optimizer.learning_rate: input should be a finite number (it is nan)"),
        (("rows@1", "Rows"), "5: data[0].dataset: 'Rows' is not a reference: NAME@NUMBER or, for models, NAME@ALIAS"),
        (("bot", "../bot"), "3: output: '../bot' is not a name: lower-case letters"),
        (
            ("kind: ift", "kind: itf"),
            "1: kind: say which: kind: ift | sft | tool_use | dpo | reward | grpo | ppo | evaluate; "
            "did you mean 'ift'?",
        ),
        (("kind: ift\n", ""), " kind: say which: kind: ift | sft | tool_use | dpo | reward | grpo | ppo | evaluate"),
        (("output: bot", "output: bot\noutput: bat"), "4: output: it stands there twice (first in line 3)"),
        (
            ("output: bot", "output: bot\nadapter: {type: lorra}"),
            "4: adapter.type: say which: type: full | lora; did you mean 'lora'?",
        ),
        (("output: bot", "output: bot\nadapter: {rank: 8}"), "4: adapter: say which: type: full | lora"),
        (
            ("output: bot", "output: bot\nadapter: {type: lora, rnk: 8}"),
            "4: adapter.rnk: no such option; did you mean 'rank'?",
        ),
        (("output: bot", "output: bot\nthen: {type: gate}"), "4: then.suites: this option is needed"),
        (
            ("  learning_rate: 1e-3", "  - 1"),
            "6: optimizer: expected a mapping of options, not [1]; the options here: ",
        ),
        (("output: bot", "output: 'bot"), "8: found unexpected end of stream"),
        (("output: bot", "output: [bot"), "4: "),
        ((GOOD, "- a\n- b\n"), "1: expected options (NAME: VALUE), not a list"),
        ((GOOD, "? [a]\n: b\n"), "1: an option's name is a plain word"),
        ((GOOD, ""), " kind: say which"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(change: tuple[str, str], message: str) -> None:
    assert change[0] in GOOD
    (line,) = problems(GOOD.replace(*change))
    assert line.startswith(f"x.yaml:{message}")


def test_a_misspelt_option_that_is_needed() -> None:
    assert problems(GOOD.replace("output", "ouput")) == [
        "x.yaml: output: this option is needed",
        "x.yaml:3: ouput: no such option; did you mean 'output'?",
    ]


def test_everything_that_is_wrong_is_named_at_once() -> None:
    lines = problems(GOOD.replace("learning_rate", "lr").replace("bot", "BOT").replace("rows@1", "rows"))
    assert [line.split(": ")[1] for line in lines] == ["output", "data[0].dataset", "optimizer.lr"]


def test_files_that_are_no_yaml() -> None:
    with pytest.raises(SpecFileError, match="byte 6 is not UTF-8"):
        read_spec(b"kind: \xff", "x.yaml")
    with pytest.raises(SpecFileError, match="at most"):
        read_spec(b"#" * (2 << 20), "x.yaml")
    with pytest.raises(SpecFileError, match=r"x\.yaml:1: could not determine a constructor"):
        read_spec(b"kind: !!python/name:os.system", "x.yaml")
    with pytest.raises(SpecFileError, match=r"x\.yaml:1: tags"):
        read_spec(b"kind: !!python/object/apply:os.system ['true']", "x.yaml")
    levels = "\n".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12))
    with pytest.raises(SpecFileError, match="too large"):
        read_spec(f"a0: &a0 x\n{levels}".encode(), "x.yaml")
    with pytest.raises(SpecFileError, match="too large or too deep"):
        read_spec(b"a: &a [*a]", "x.yaml")
    with pytest.raises(SpecFileError):
        read_spec(b"[" * 5000, "x.yaml")


DEEP = "brackets or lists are nested too deeply for a spec"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("[" * 20_000, DEEP),
        ("- " * 20_000 + "x", DEEP),
        ("2001-99-99", "'2001-99-99' is no usable date; in quotes it is a text"),
        ("!!timestamp x", "'x' is no usable date; in quotes it is a text"),
        ("9" * 5000, f"{'9' * 100!r} is no usable number"),
        ("0x" + "f" * 5000, f"{'0x' + 'f' * 98!r} is no usable number"),
        ("!!int x", "'x' is no usable number"),
        ("!!float x", "'x' is no usable number"),
        ("!!bool x", "'x' is no usable bool"),
    ],
)
def test_a_value_that_yaml_stumbles_over_is_an_error_of_the_spec(value: str, message: str) -> None:
    """In a file and in an override: never a traceback, nor a message about Python's recursion."""
    with pytest.raises(SpecFileError) as caught:
        read_spec(f"a:\n {value}\n".encode(), "x.yaml")
    assert str(caught.value).splitlines()[0] == ("x.yaml: " if message == DEEP else "x.yaml:2: ") + message
    with pytest.raises(SpecFileError) as caught:
        read_spec(b"", "x.yaml").set(f"a={value}")
    assert str(caught.value).splitlines()[0] == f"--set {f'a={value}'[:100].rstrip()}: {message}"


@given(st.binary(max_size=60))
def test_any_bytes_give_a_spec_or_an_error(data: bytes) -> None:
    try:
        assert isinstance(read_spec(data, "x.yaml").plain, dict)
    except SpecFileError as error:
        assert "x.yaml" in str(error)  # noqa: PT017 - either outcome is right, nothing else is


@given(
    st.recursive(
        st.text("ab", min_size=1),
        lambda inner: st.lists(inner, min_size=1) | st.dictionaries(st.text("ab", min_size=1), inner, min_size=1),
        max_leaves=8,
    )
)
def test_paths_read_as_they_are_written(value: Any) -> None:
    path: tuple[str | int, ...] = ("x",)
    while not isinstance(value, str):
        step = next(iter(value)) if isinstance(value, dict) else len(value) - 1
        path, value = (*path, step), value[step]
    assert parse_path(path_text(path)) == path


@pytest.mark.parametrize(
    ("assignment", "check"),
    [
        ("optimizer.learning_rate=2e-4", lambda s: s["optimizer"]["learning_rate"] == 2e-4),
        ("batch.num_rows=8", lambda s: s["batch"]["num_rows"] == 8),
        ("data[0].dataset=other@2", lambda s: s["data"][0]["dataset"] == "other@2"),
        ("data[1].dataset=other@2", lambda s: len(s["data"]) == 2),
        ("display_name=a = b", lambda s: s["display_name"] == "a = b"),
        ("adapter.type=lora", lambda s: s["adapter"]["rank"] == 16),
        ("adapter={type: lora, rank: 4}", lambda s: s["adapter"]["rank"] == 4),
    ],
)
def test_an_option_from_the_command_line(assignment: str, check: Any) -> None:
    file = read_spec(GOOD.encode(), "x.yaml")
    file.set(assignment)
    assert check(file.checked())


LORA = GOOD + "adapter: {type: lora, rank: 4}\n"


@pytest.mark.parametrize(
    ("assignments", "said"),
    [
        (["optimizer.learning_rate=fast"], "--set optimizer.learning_rate=fast: optimizer.learning_rate: input should"),
        (["optimizer.learning_rate=1", "optimizer.learning_rate=x"], "--set optimizer.learning_rate=x: optimizer."),
        (["optimizer={learning_rate: x}"], "--set optimizer={learning_rate: x}: optimizer.learning_rate: input"),
        (["adapter={type: lora, rank: -1}"], "--set adapter={type: lora, rank: -1}: adapter.rank: input should"),
        (["data[1].weight=2"], "--set data[1].weight=2: data[1].dataset: this option is needed"),
        (["held_out.every_steps=5"], "--set held_out.every_steps=5: held_out: say which: type: none | share | data"),
        (["seed=0", "adapter.rank=x"], "--set adapter.rank=x: adapter.rank: input should be a valid integer"),
        # What the file says of the optimiser and what was given do not go together.
        (["optimizer.name=adafactor", "optimizer.beta1=0.5"],
         "x.yaml:6, with --set optimizer.name=adafactor --set optimizer.beta1=0.5: optimizer: "),
        (["seed=0"], ""),
    ],
)  # fmt: skip
def test_what_an_override_makes_wrong_is_named_by_the_override(assignments: list[str], said: str) -> None:
    file = read_spec(LORA.encode(), "x.yaml")
    for assignment in assignments:
        file.set(assignment)
    if not said:
        file.checked()
        return
    with pytest.raises(SpecFileError) as caught:
        file.checked()
    first, *rest = str(caught.value).splitlines()
    assert first.startswith(said), first
    assert [line.partition(":")[0] for line in rest] == ["hint"]


def test_an_option_of_the_file_keeps_its_line_beside_overrides() -> None:
    file = read_spec(LORA.replace("1e-3", "fast").encode(), "x.yaml")
    file.set("adapter.rank=8")
    with pytest.raises(SpecFileError, match=r"^x\.yaml:7: optimizer\.learning_rate: "):
        file.checked()


STEPS = GOOD + "duration: {type: epochs, num_epochs: 1}\n"


@pytest.mark.parametrize(
    "assignments",
    [
        ["duration.type=steps", "duration.max_steps=5"],
        ["duration.max_steps=5", "duration.type=steps"],
        ["duration={type: steps, max_steps: 5}"],
    ],
)
def test_another_type_from_the_command_line_leaves_the_former_ones_options_behind(assignments: list[str]) -> None:
    file = read_spec(STEPS.encode(), "x.yaml")
    for assignment in assignments:
        file.set(assignment)
    assert file.checked()["duration"] == {"type": "steps", "max_steps": 5}


def test_the_same_type_again_changes_nothing_and_a_mapping_from_the_command_line_stays() -> None:
    file = read_spec(STEPS.encode(), "x.yaml")
    file.set("duration.type=epochs")
    assert file.checked()["duration"]["num_epochs"] == 1
    file.set("adapter={type: lora, rank: 4}")
    file.set("adapter.rank=8")
    assert file.checked()["adapter"]["rank"] == 8
    file.set("adapter.type=full")
    with pytest.raises(SpecFileError, match="rank is an option of adapter type lora"):
        file.checked()


MEMBER = "max_steps is an option of duration type steps: set duration.type=steps as well"


@pytest.mark.parametrize(
    ("text", "assignment", "message"),
    [
        (STEPS, "duration.max_steps=5", f"duration.max_steps: {MEMBER}"),
        (GOOD, "duration.max_steps=5", f"duration: say which: type: epochs | steps; {MEMBER}"),
        (STEPS, "duration.max_stps=5", "duration.max_stps: no such option; the options here: "),
        (STEPS, "duration.num_epoch=5", "duration.num_epoch: no such option; did you mean 'num_epochs'?"),
        (STEPS, "duration.type=stps", "duration.type: say which: type: epochs | steps; did you mean 'steps'"),
        (STEPS, "duration.type=[]", "duration.type: "),
    ],
)
def test_an_option_of_another_choice_is_told_where_it_belongs(text: str, assignment: str, message: str) -> None:
    file = read_spec(text.encode(), "x.yaml")
    file.set(assignment)
    with pytest.raises(SpecFileError) as caught:
        file.checked()
    assert str(caught.value).startswith(f"--set {assignment}: {message}")


def test_help_shows_how_a_choice_is_set(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["submit", "--help"]) == 0
    assert "'duration={type: steps, max_steps: 5}'" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    "assignment", ["", "x", "=1", "data[7].dataset=a", "output.x=1", "a b=1", "x=[", "data.x=1", "data[0]x[=1"]
)
def test_an_assignment_that_makes_no_sense(assignment: str) -> None:
    file = read_spec(GOOD.encode(), "x.yaml")
    with pytest.raises(SpecFileError, match="--set"):
        file.set(assignment)


@pytest.mark.parametrize("kind", KINDS)
def test_init_writes_all_options_at_their_defaults(kind: str) -> None:
    text = template(kind)
    base = "tiny-base@1" if kind == "ift" else "tiny-instruct@1"
    needed = {"base": base, "output": "my-model", "data": [{"dataset": "my-data@1"}]}
    if kind == "evaluate":
        needed = {"version": "my-model@1", "suites": ["instruction_following"]}
    assert read(text) == parse_spec({"kind": kind, **needed}).model_dump(mode="json")
    written = read_spec(text.encode(), "x.yaml").plain
    assert set(written) == set(KINDS[kind].model_fields)
    for name, field in KINDS[kind].model_fields.items():
        if field.description:
            assert field.description.split(";")[0][:60] in " ".join(text.replace("\n#", " ").split()), name


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "base" in KINDS[kind].model_fields])
def test_the_base_that_init_names_has_the_template_that_it_asks_for(kind: str) -> None:
    spec = read(template(kind))
    assert (spec["template"]["type"] == "own") == (spec["base"] == "tiny-instruct@1"), "tiny-base has no template"


@pytest.mark.parametrize("kind", KINDS)
def test_each_alternative_that_init_shows_can_be_uncommented(kind: str) -> None:
    """A block `# name:` takes the place of the one above it."""
    text = template(kind)
    blocks = re.findall(r"^# (\w+):\n((?:#   .*\n)+)", text, re.M)
    fields = KINDS[kind].model_fields
    choices = {
        name for name, field in fields.items() if alternatives(field) and get_origin(field.annotation) is not list
    }
    assert {name for name, _ in blocks} == choices
    assert choices >= ({"template"} if kind == "evaluate" else {"adapter", "duration", "template"})
    for name, block in blocks:
        plain = read_spec(text.encode(), "x.yaml").plain
        plain[name] = yaml.safe_load("\n".join(line[2:] for line in block.splitlines()))
        spec = parse_spec(plain).model_dump(mode="json")
        assert spec[name]["type"] == plain[name]["type"]
        assert spec[name] == plain[name], "each option of it is shown, at its default"


def test_a_list_of_alternatives_shows_each_of_them() -> None:
    """The default as it is; the others can be uncommented in their place, and have all their options at the default."""
    text = template("grpo")
    shown = text[text.index("\nrewards:\n") :].partition("\n\n")[0]
    active = [line for line in shown.splitlines() if not line.startswith("#")]
    assert yaml.safe_load("\n".join(active)) == {"rewards": [{"type": "checker", "weight": 1.0}]}
    both = yaml.safe_load("\n".join(line.removeprefix("# ") for line in shown.splitlines()))
    plain = read_spec(text.encode(), "x.yaml").plain
    plain["rewards"] = both["rewards"]
    assert [part["type"] for part in both["rewards"]] == ["checker", "regex", "overlong", "model", "length", "python"]
    assert parse_spec(plain).model_dump(mode="json")["rewards"] == both["rewards"]


def test_init_never_overwrites(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["init", "ift"]) == 0
    assert (tmp_path / "ift.yaml").read_text() == template("ift")
    (tmp_path / "ift.yaml").write_text("mine")
    assert run(["init", "ift"]) == 2
    assert "exists already" in capsys.readouterr().err
    assert (tmp_path / "ift.yaml").read_text() == "mine"
    assert run(["init", "sft", "-"]) == 0
    assert capsys.readouterr().out == template("sft")
    assert run(["init", "sft", str(tmp_path / "no" / "such.yaml")]) == 2
    assert run(["init", "a2c"]) == 2
    assert "not one of ift, sft, tool_use, dpo, reward, grpo, ppo, evaluate" in capsys.readouterr().err


def test_there_are_examples() -> None:
    assert {path.name for path in EXAMPLES} >= {"ift-demo.yaml", "sft-alpaca.yaml", "evaluate-plain.yaml"}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_the_examples_are_valid(path: Path) -> None:
    assert read_spec(path.read_bytes(), path.name).checked()["kind"] in KINDS


def test_the_demo_is_the_example() -> None:
    (path,) = [path for path in EXAMPLES if path.name == "ift-demo.yaml"]
    example = read_spec(path.read_bytes(), path.name).checked()
    assert demo_spec(example["base"], example["data"][0]["dataset"]) == example


def test_sabotage_changes_nothing_but_the_learning_rate() -> None:
    good, bad = demo_spec("b@1", "d@1"), demo_spec("b@1", "d@1", sabotage=True)
    assert bad["optimizer"].pop("learning_rate") == pytest.approx(100 * good["optimizer"].pop("learning_rate"))
    assert "sabotaged" in bad.pop("display_name")
    good.pop("display_name")
    assert good == bad
