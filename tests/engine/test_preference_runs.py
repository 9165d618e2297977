"""Attempts of dpo, kto and reward from task to exit record: they learn, resume to the last bit, and do not depend on
how a step is split; what comes out is read by ordinary transformers."""

from __future__ import annotations

import json
import math
import re
from array import array
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from posttrain.engine import held_out
from posttrain.engine import run as run_module
from posttrain.engine.adapters import add_lora
from posttrain.engine.data.encode import Encoder
from posttrain.engine.data.encoded import Group, Row, fit
from posttrain.engine.data.packing import collate, split
from posttrain.engine.data.preferences import read_pair
from posttrain.engine.errors import CancelledError, ModelError, NonFiniteError, UnsupportedModelError
from posttrain.engine.events import Progress
from posttrain.engine.loop import Trainer
from posttrain.engine.methods import Models, kto, method_of, reference
from posttrain.engine.methods.kto import KtoMethod, KtoRow
from posttrain.engine.methods.reference import sequence_logps
from posttrain.engine.models import LanguageModel, load, own_template
from posttrain.engine.run import run_training
from posttrain.engine.score import add_score_head, sequence_scores
from posttrain.engine.spec import LoraAdapter, parse_spec
from posttrain.engine.task import ModelInput, TrainTask
from tests.engine.pairs import make_groups, spec_of
from tests.engine.test_run import LORA, events_of, kill_after, losses_of, succeeded, with_task
from tests.engine.tiny import labelled_of, make_task, pairs_of, save_base, tiny_model

DPO: dict[str, Any] = {"kind": "dpo"}
KTO: dict[str, Any] = {"kind": "dpo", "loss": {"type": "kto"}}
REWARD: dict[str, Any] = {"kind": "reward"}
TECHNIQUES = {
    "dpo": DPO,
    "dpo lora": {**DPO, "adapter": LORA},
    "dpo adapter off": {**DPO, "adapter": LORA, "reference": "adapter_off"},
    "dpo nll": {**DPO, "nll_weight": 0.5},
    "simpo": {**DPO, "loss": {"type": "simpo"}},
    "orpo": {**DPO, "loss": {"type": "orpo"}},
    "kto": KTO,
    "kto adapter off": {**KTO, "adapter": LORA, "reference": "adapter_off"},
    "reward": REWARD,
    "reward lora": {**REWARD, "adapter": LORA},
}
every_technique = pytest.mark.parametrize("options", TECHNIQUES.values(), ids=list(TECHNIQUES))


def task_of(folder: Path, options: dict[str, Any], **more: Any) -> TrainTask:
    return make_task(folder, **{**options, **more})


@every_technique
def test_resumed_equals_uninterrupted_to_the_last_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    task = task_of(tmp_path, options, duration={"type": "steps", "max_steps": 7})
    whole = succeeded(task, tmp_path / "whole")
    with monkeypatch.context() as patch:
        kill_after(patch, 5)
        assert run_training(task, tmp_path / "a1").code == "INTERNAL"
    resumed = with_task(task, attempt=2, resume_from=str(tmp_path / "a1" / "checkpoints" / "step-00000004"))
    record = succeeded(resumed, tmp_path / "a2")
    for key in ("loss", "steps", "tokens", "trained_tokens", "rows"):
        assert record.summary[key] == whole.summary[key], key
    expected, found = losses_of(tmp_path / "whole"), losses_of(tmp_path / "a2")
    assert sorted(found) == [5, 6, 7]
    assert all(found[step] == expected[step] for step in found)
    files = sorted((tmp_path / "whole" / "output").glob("*.safetensors"))
    assert files
    for path in files:
        assert path.read_bytes() == (tmp_path / "a2" / "output" / path.name).read_bytes()


def test_a_resumed_attempt_computes_with_the_threads_of_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also the reference, which is computed again before the checkpoint's weights are loaded."""
    used: list[tuple[str, int]] = []
    for name, owner in (("prepare", reference.ReferenceLogps), ("_step", Trainer)):
        plain = getattr(owner, name)

        def spied(*given: Any, plain: Any = plain, name: str = name) -> Any:
            used.append((name, torch.get_num_threads()))
            return plain(*given)

        monkeypatch.setattr(owner, name, spied)
    task = task_of(tmp_path, DPO)
    try:
        torch.set_num_threads(2)
        with monkeypatch.context() as patch:
            kill_after(patch, 3)
            assert run_training(task, tmp_path / "a1").code == "INTERNAL"
        torch.set_num_threads(1)
        succeeded(
            with_task(task, attempt=2, resume_from=str(tmp_path / "a1" / "checkpoints" / "step-00000002")),
            tmp_path / "a2",
        )
        assert torch.get_num_threads() == 1, "given back"
    finally:
        torch.set_num_threads(1)
    assert used == [("prepare", 2), *[("_step", 2)] * 3, ("prepare", 2), *[("_step", 2)] * 4]


@every_technique
def test_micro_batches_change_nothing(tmp_path: Path, options: dict[str, Any]) -> None:
    adapter = {**options["adapter"], "dropout": 0.0} if "adapter" in options else {"type": "full"}
    whole = task_of(tmp_path, {**options, "adapter": adapter}, batch={"num_rows": 8, "micro_tokens": 8192})
    parts = with_task(whole, spec={**whole.spec.model_dump(), "batch": {"num_rows": 8, "micro_tokens": 1}})
    succeeded(whole, tmp_path / "a1")
    succeeded(parts, tmp_path / "a2")
    others = losses_of(tmp_path / "a2")
    for step, values in losses_of(tmp_path / "a1").items():
        for key, value in values.items():
            assert others[step][key] == pytest.approx(value, rel=2e-5, abs=2e-5), (step, key)


@pytest.mark.parametrize(
    "options",
    [
        *({**DPO, "loss": {"type": name}} for name in ("sigmoid", "hinge", "ipo", "robust", "sigmoid_norm")),
        *({**DPO, "loss": {"type": name}} for name in ("simpo", "orpo")),
        REWARD,
        {**REWARD, "adapter": LORA},
    ],
    ids=lambda options: options.get("loss", {}).get("type", options["kind"]),
)
def test_it_learns_to_prefer_what_was_chosen(tmp_path: Path, options: dict[str, Any]) -> None:
    task = task_of(
        tmp_path,
        options,
        optimizer={"learning_rate": 1e-2},
        duration={"type": "epochs", "num_epochs": 4},
        batch={"num_rows": 8, "micro_tokens": 512},
    )
    succeeded(task, tmp_path / "a1")
    metrics = losses_of(tmp_path / "a1")
    first, last = metrics[1], metrics[max(metrics)]
    assert last["loss"] < first["loss"]
    assert last["reward_margin"] > first["reward_margin"]
    assert last["reward_accuracy"] == 1.0


def test_dpo_begins_at_the_reference(tmp_path: Path) -> None:
    """Before the first update the policy is the reference: no margin, and a loss of log 2."""
    succeeded(task_of(tmp_path, DPO), tmp_path / "a1")
    first = losses_of(tmp_path / "a1")[1]
    assert first["loss"] == pytest.approx(math.log(2), rel=1e-5)
    assert first["reward_margin"] == pytest.approx(0, abs=1e-5)


def test_kto_learns_which_answers_are_desirable(tmp_path: Path) -> None:
    task = task_of(
        tmp_path,
        KTO,
        optimizer={"learning_rate": 3e-3},
        duration={"type": "epochs", "num_epochs": 4},
        batch={"num_rows": 12, "micro_tokens": 512},
    )
    succeeded(task, tmp_path / "a1")
    metrics = losses_of(tmp_path / "a1")
    last = metrics[max(metrics)]
    assert last["loss"] < metrics[1]["loss"] == pytest.approx(0.5, abs=1e-5)
    assert last["reward_desirable"] > last["reward_undesirable"] + 0.3
    # Desirable is what lies above the divergence z0, not what lies above 0; beta is 0.1.
    assert last["reward_undesirable"] < 0.1 * last["divergence"]


def test_cached_and_switched_off_are_the_same_reference(tmp_path: Path) -> None:
    adapter = {**LORA, "dropout": 0.0}
    cached = task_of(tmp_path, {**DPO, "adapter": adapter, "optimizer": {"learning_rate": 3e-2}})
    off = with_task(cached, spec={**cached.spec.model_dump(), "reference": "adapter_off"})
    succeeded(cached, tmp_path / "a1")
    succeeded(off, tmp_path / "a2")
    first, second = losses_of(tmp_path / "a1"), losses_of(tmp_path / "a2")
    assert abs(first[6]["reward_margin"]) > 1e-3
    for step, values in first.items():
        assert second[step]["loss"] == pytest.approx(values["loss"], rel=1e-5)


def test_the_reference_is_the_model_without_its_adapter(tmp_path: Path) -> None:
    batch = collate(make_groups())
    with torch.no_grad():
        base = sequence_logps(batch, tiny_model("llama"))
        model = tiny_model("llama")
        peft = add_lora(model.module, LoraAdapter(rank=2), "b@1")
        for name, parameter in model.module.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.1)
        models = Models(model, peft)
        model.module.train()
        with models.reference() as before:
            assert not before.module.training
            torch.testing.assert_close(sequence_logps(batch, before), base)
        assert model.module.training
        assert float((sequence_logps(batch, model) - base).abs().max()) > 0.1
    trained = [name for name, _ in model.trainable()]
    assert trained
    assert all("lora" in name for name in trained)


def test_the_reward_model_scores_with_ordinary_transformers(tmp_path: Path) -> None:
    task = task_of(tmp_path, {**REWARD, "adapter": LORA, "optimizer": {"learning_rate": 1e-2}})
    succeeded(task, tmp_path / "a1")
    output = tmp_path / "a1" / "output"
    model = AutoModelForSequenceClassification.from_pretrained(output)
    tokenizer = AutoTokenizer.from_pretrained(output)
    assert model.config.num_labels == 1
    row = pairs_of(1)[0]
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["chosen"]}], tokenize=False
    )
    ids = tokenizer(text.rstrip("\n"), return_tensors="pt")["input_ids"]
    assert ids[0, -1] == tokenizer.eos_token_id
    with torch.no_grad():
        score = model(input_ids=ids).logits
    assert score.shape == (1, 1)
    # The same row through the engine: backbone, prompt and adapter are merged into what was saved.
    assert float(score) == pytest.approx(engine_score(output, ids[0].tolist()), rel=1e-4)


def test_an_answer_is_scored_at_its_stop_token_or_where_it_was_cut(tmp_path: Path) -> None:
    """In training, packed behind a shared prompt, as by transformers, alone: whatever the last token is."""
    batch = {"num_rows": 4, "max_tokens": 50, "overlong": "truncate"}
    succeeded(task_of(tmp_path, REWARD, batch=batch, optimizer={"learning_rate": 1e-2}), tmp_path / "a1")
    output = tmp_path / "a1" / "output"
    tokenizer = AutoTokenizer.from_pretrained(output)
    theirs = AutoModelForSequenceClassification.from_pretrained(output)
    template = own_template(tokenizer)
    assert template is not None
    encoder, method = Encoder(tokenizer, template, [tokenizer.eos_token_id]), method_of(spec_of(**REWARD))
    pairs = [read_pair(row) for row in pairs_of(24)]
    whole = [method.encode(pair, encoder, "d@1", number) for number, pair in enumerate(pairs, 1)]
    groups = [row for row in (fit(row, 50, "truncate") for row in whole if row is not None) if isinstance(row, Group)]
    assert len(groups) == len(pairs)
    with torch.no_grad():
        found = sequence_scores(collate(groups), engine_model(output)).tolist()
        alone = [
            float(theirs(torch.tensor([[*group.prefix, *branch.ids]])).logits)
            for group in groups
            for branch in group.branches
        ]
    assert found == pytest.approx(alone, rel=1e-4, abs=1e-5)
    is_stopped = [branch.ids[-1] == tokenizer.eos_token_id for group in groups for branch in group.branches]
    is_cut = [len(row.prefix) + len(branch) > 50 for row in whole if isinstance(row, Group) for branch in row.branches]
    assert 0 < sum(is_cut) < len(is_cut)
    assert is_stopped == [not cut for cut in is_cut]
    # Not the same: what a template writes behind the stop token.
    first = [*groups[0].prefix, *groups[0].branches[0].ids]
    with torch.no_grad():
        behind = float(theirs(torch.tensor([[*first, *tokenizer("\n")["input_ids"]]])).logits)
    assert abs(behind - alone[0]) > 1e-3


def engine_score(output: Path, ids: list[int]) -> float:
    """The score of a row by the packed path."""
    model = engine_model(output)
    with torch.no_grad():
        return float(sequence_scores(collate([Row(array("i", ids), bytes([0] * (len(ids) - 1) + [1]))]), model))


def engine_model(output: Path) -> LanguageModel:
    """A reward model as it is trained, with the saved tensors."""
    tensors = load_file(output / "model.safetensors")
    model = tiny_model("llama")
    model.module.model.load_state_dict(
        {name.removeprefix("model."): tensor for name, tensor in tensors.items() if name.startswith("model.")}
    )
    add_score_head(model, seed=0)
    model.module.score.weight.data = tensors["score.weight"]
    return model


def test_a_reward_model_is_no_language_model(tmp_path: Path) -> None:
    succeeded(task_of(tmp_path, REWARD), tmp_path / "a1")
    source = ModelInput(ref="rm@1", path=str(tmp_path / "a1" / "output"), digest="", weights_digest="")
    with pytest.raises(ModelError, match=r"rm@1 is a reward model"):
        load(source)


def test_an_architecture_without_a_score_head_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedModelError, match="CohereForCausalLM: transformers has no scoring model"):
        add_score_head(tiny_model("cohere"), seed=0)


def test_the_score_head_starts_from_the_seed() -> None:
    heads = []
    for seed in (1, 1, 2):
        model: LanguageModel = tiny_model("llama")
        add_score_head(model, seed)
        heads.append(model.module.score.weight)
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])
    assert float(heads[0].detach().std()) == pytest.approx(1 / math.sqrt(33), rel=0.5)


# -- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "field", "reason"),
    [
        ({"kind": "dpo", "reference": "adapter_off"}, "reference", "no adapter to switch off"),
        ({"kind": "dpo", "loss": {"type": "kto"}, "nll_weight": 0.1}, "nll_weight", "no chosen answers"),
        ({"kind": "dpo", "loss": {"type": "robust", "label_smoothing": 0.5}}, "label_smoothing", "less than 0.5"),
        ({"kind": "dpo", "loss": {"type": "dpo"}}, "loss", "sigmoid"),
        ({"kind": "reward", "then": {"type": "gate", "suites": ["reasoning"]}}, "then", "Extra inputs"),
        ({"kind": "reward", "centring": -1.0}, "centring", "greater than or equal to 0"),
    ],
)
def test_a_spec_that_makes_no_sense_is_refused_by_field(options: dict[str, Any], field: str, reason: str) -> None:
    with pytest.raises(ValidationError, match=reason) as caught:
        spec_of(**options)
    assert field in caught.value.errors()[0]["loc"]


def test_the_learning_rate_is_the_techniques_own() -> None:
    common = {"base": "b@1", "output": "o", "data": [{"dataset": "d@1"}], "optimizer": {"schedule": "constant"}}
    rates = {kind: parse_spec({"kind": kind, **common}).optimizer.learning_rate for kind in ("sft", "dpo", "reward")}  # type: ignore[union-attr]
    assert rates == {"sft": 2e-5, "dpo": 5e-7, "reward": 3e-6}


@pytest.mark.parametrize(
    ("options", "rows", "code", "message"),
    [
        (DPO, [{"prompt": "a", "chosen": "fox", "rejected": "fox"}], "BAD_DATA", "row 1.*same as chosen"),
        (KTO, labelled_of(1), "EMPTY_DATASET", "only one prompt"),
        (KTO, [{**row, "prompt": "q"} for row in labelled_of(4)], "EMPTY_DATASET", "only one prompt"),
        (DPO, [*pairs_of(2), {"prompt": "q", "chosen": "fox " * 200, "rejected": "dog"}], "ROW_TOO_LONG", r"row 3 \("),
    ],
    ids=["same answers", "one row", "one prompt", "too long"],
)  # fmt: skip
def test_bad_rows_are_named(tmp_path: Path, options: dict[str, Any], rows: list[Any], code: str, message: str) -> None:
    record = run_training(task_of(tmp_path, options, rows=rows), tmp_path / "a1")
    assert (record.status, record.code) == ("failed", code)
    assert re.search(message, record.message), record.message


def test_a_pair_that_is_cut_keeps_both_answers_different(tmp_path: Path) -> None:
    """Cut to where both are the same, a pair says nothing: the job is told, instead of a loss of log 2 for ever."""
    same = "the quick brown fox " * 6
    rows = [*pairs_of(3), {"prompt": "q", "chosen": same + "yes", "rejected": same + "no"}]
    batch = {"num_rows": 2, "max_tokens": 40, "overlong": "truncate"}
    record = run_training(task_of(tmp_path, DPO, rows=rows, batch=batch), tmp_path / "a1")
    assert record.code == "ALL_LABELS_MASKED"
    assert "row 4" in record.message


def test_the_reference_is_known_of_more_rows_than_a_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    succeeded(task_of(tmp_path, DPO), tmp_path / "a1")
    monkeypatch.setattr(reference, "SORTED_ROWS", 5)
    succeeded(task_of(tmp_path, DPO), tmp_path / "a2")
    expected, found = losses_of(tmp_path / "a1"), losses_of(tmp_path / "a2")
    assert len(expected) == 6
    for step, values in expected.items():
        assert found[step]["loss"] == pytest.approx(values["loss"], rel=1e-5)


def kto_method(**options: Any) -> KtoMethod:
    method = method_of(spec_of("dpo", loss={"type": "kto"}, **options))
    assert isinstance(method, KtoMethod)
    return method


def test_ktos_other_answer_belongs_to_another_prompt_and_is_cut() -> None:
    groups = make_groups(num_branches=1)
    twice = [groups[0], replace(groups[0], branches=groups[1].branches), groups[2], groups[3]]
    limit = len(groups[3].prefix) + 1
    arranged = kto_method().arrange(twice, limit)
    others = [row.other for row in arranged if isinstance(row, KtoRow)]
    assert [other.ids[0] for other in others] == [twice[i].branches[0].ids[0] for i in (2, 2, 3, 0)]
    assert len(others[3]) == 1 < len(groups[0].branches[0])


@pytest.mark.parametrize(("shift", "expected"), [(+2.0, 2.0), (-2.0, 0.0)])
def test_ktos_divergence_is_never_negative(shift: float, expected: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """z0 of a policy whose log-probabilities are all shifted against the reference's."""
    method, models = kto_method(), Models(tiny_model("llama"))
    rows = method.arrange(make_groups(num_branches=1), 1000)
    method.prepare([rows], models, lambda done, total: None)
    plain = reference.sequence_logps
    monkeypatch.setattr(kto, "sequence_logps", lambda batch, model: plain(batch, model) + shift)
    assert method.window(rows, models).divergence == pytest.approx(expected, abs=1e-4)


def test_what_kto_measures_can_be_stopped_before_each_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """All held-out rows are one window, so a stop must not wait for the whole of it."""
    method, models = kto_method(batch={"micro_tokens": 1}), Models(tiny_model("llama"))
    rows = method.arrange(make_groups(num_branches=1), 1000)
    method.prepare([rows], models, lambda done, total: None)
    plain, passes = reference.sequence_logps, list[int]()
    monkeypatch.setattr(kto, "sequence_logps", lambda batch, model: passes.append(1) or plain(batch, model))
    with pytest.raises(CancelledError):
        method.window(rows, models, lambda: len(passes) == 2)
    assert len(passes) == 2
    assert held_out.measure(method, models, rows, 1, lambda: len(passes) == 3) is None
    assert len(passes) == 3


def test_kto_packs_by_what_a_pass_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The prompt with one of its two answers: passes of the window and of the loss are filled by that."""
    groups = [replace(make_groups(num_branches=1)[0], number=number) for number in range(4)]
    groups = [replace(group, prefix=array("i", [number, *group.prefix])) for number, group in enumerate(groups)]
    size = len(groups[0])
    method, models = kto_method(batch={"micro_tokens": 2 * size}), Models(tiny_model("llama"))
    rows = method.arrange(groups, 1000)
    assert [len(row) for row in rows] == [size] * 4
    assert [len(micro) for micro in split(rows, 2 * size)] == [2, 2]
    method.prepare([rows], models, lambda done, total: None)
    plain, sizes = reference.sequence_logps, list[int]()
    monkeypatch.setattr(
        kto, "sequence_logps", lambda batch, model: sizes.append(batch.num_tokens) or plain(batch, model)
    )
    method.window(rows, models)
    assert sizes == [2 * size, 2 * size]


def test_a_divergence_that_is_no_number_names_its_rows() -> None:
    method, models = kto_method(batch={"micro_tokens": 1}), Models(tiny_model("llama"))
    rows = method.arrange(make_groups(num_branches=1), 1000)
    method.prepare([rows], models, lambda done, total: None)
    method._reference._values["pairs@1"][2, 1] = math.nan
    with pytest.raises(NonFiniteError, match=r"is nan; rows of the batch: pairs@1 row 2$"):
        method.window(rows, models)


@pytest.mark.parametrize("name", ["mistral", "gpt2"])
def test_other_architectures_make_reward_models_too(tmp_path: Path, name: str) -> None:
    """An untied head is neither trained nor saved; GPT-2's linear layers are of another kind."""
    base = save_base(tmp_path / "base", name, is_chat=True)
    succeeded(task_of(tmp_path, REWARD, base=base), tmp_path / "a1")
    output = tmp_path / "a1" / "output"
    assert AutoModelForSequenceClassification.from_pretrained(output).config.num_labels == 1
    assert not [key for key in load_file(output / "model.safetensors") if "lm_head" in key]


def test_a_reward_model_never_pads_with_its_stop_token(tmp_path: Path) -> None:
    """Or transformers would score at the token before it."""
    base = save_base(tmp_path / "base", is_chat=True)
    for file in ("config.json", "tokenizer_config.json"):
        settings = json.loads((tmp_path / "base" / file).read_text())
        key = "pad_token_id" if file == "config.json" else "pad_token"
        settings[key] = settings[key.replace("pad", "eos")]
        (tmp_path / "base" / file).write_text(json.dumps(settings))
    succeeded(task_of(tmp_path, REWARD, base=base), tmp_path / "a1")
    output = tmp_path / "a1" / "output"
    tokenizer, model = AutoTokenizer.from_pretrained(output), AutoModelForSequenceClassification.from_pretrained(output)
    assert tokenizer.pad_token_id == model.config.pad_token_id != tokenizer.eos_token_id
    short, long = ([40, 41, tokenizer.eos_token_id], list(range(30, 40)))
    both = tokenizer.pad({"input_ids": [short, long]}, return_tensors="pt")
    with torch.no_grad():
        together = model(**both).logits[0]
        alone = model(input_ids=torch.tensor([short])).logits[0]
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_the_summary_counts_what_was_trained(tmp_path: Path) -> None:
    counts = {}
    for options in (DPO, REWARD):
        record = succeeded(task_of(tmp_path, {**options, "adapter": LORA}), tmp_path / options["kind"])
        counts[options["kind"]] = record.summary["num_trained_parameters"]
    assert counts["reward"] == counts["dpo"] + 32  # the adapter, and the score head


def test_progress_of_the_reference_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "PROGRESS_EVERY_S", -1.0)
    succeeded(task_of(tmp_path, DPO), tmp_path / "a1")
    told = [event for event in events_of(tmp_path / "a1", Progress) if event.phase == "reference"]
    assert told[-1].done == told[-1].total == 24


def test_a_base_for_pairs_needs_a_template(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base", is_chat=False)
    assert run_training(task_of(tmp_path, DPO, base=base), tmp_path / "a1").code == "BAD_TEMPLATE"
