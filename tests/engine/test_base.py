"""The shipped base is what its card says, and the script that made it resumes exactly."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import AutoTokenizer, LlamaForCausalLM

from posttrain.engine.base import BASE_DIR, corpus, pretrain
from posttrain.engine.base.words import Draw

TINY = pretrain.Recipe(
    vocab_size=420, tokenizer_documents=300, hidden_size=16, intermediate_size=32, num_layers=1, num_heads=2,
    window_tokens=32, windows_per_step=2, steps=6, warmup_steps=2, decay_steps=2, precision="fp32",
)  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(BASE_DIR)


@pytest.fixture(scope="module")
def model() -> Any:
    return LlamaForCausalLM.from_pretrained(BASE_DIR, dtype=torch.float32)


def test_the_folder_is_an_ordinary_base(tokenizer: Any) -> None:
    weights = BASE_DIR / "model.safetensors"
    assert weights.stat().st_size <= 10 * 10**6
    config = json.loads((BASE_DIR / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert tokenizer.chat_template is None
    assert tokenizer.bos_token == tokenizer.eos_token == pretrain.EOT
    assert not list(BASE_DIR.glob("*.jinja"))


def test_the_card_names_these_weights_and_this_training() -> None:
    card = (BASE_DIR / "README.md").read_text()
    record = json.loads((BASE_DIR / "training.json").read_text())
    assert hashlib.sha256((BASE_DIR / "model.safetensors").read_bytes()).hexdigest() in card
    assert f"{record['tokens']:,} tokens" in card
    assert f"seed {record['recipe']['seed']}" in card
    assert str(record["held_out_loss"]) in card
    assert (
        record["steps"] * record["recipe"]["windows_per_step"] * record["recipe"]["window_tokens"] == record["tokens"]
    )


def test_the_shipped_weights_reach_the_recorded_loss(model: Any) -> None:
    record = json.loads((BASE_DIR / "training.json").read_text())
    recipe = pretrain.Recipe(**record["recipe"])
    loss = pretrain.held_out_loss(model, backend_tokenizer(), recipe)
    assert loss == pytest.approx(record["held_out_loss"], abs=0.005)  # the record is of fp32, the file is fp16


def test_the_corpus_has_a_seed_and_no_markup() -> None:
    first = list(corpus.documents(7, 0, 400))
    assert first == [corpus.document(7, i) for i in range(400)]
    assert first != list(corpus.documents(8, 0, 400))
    text = "\n".join(corpus.documents(pretrain.Recipe().seed, 0, 4000))
    for mark in ("<|", "|>", "<tool_call>", "Answer:", "Question", "User:", "Assistant", "assistant", "?"):
        assert mark not in text, mark


@cache
def backend_tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(BASE_DIR / "tokenizer.json"))


@settings(max_examples=100, deadline=None)
@given(text=st.text())
def test_the_tokenizer_keeps_text(text: str) -> None:
    backend = backend_tokenizer()
    assert backend.decode(backend.encode(text, add_special_tokens=False).ids, skip_special_tokens=False) == text


def test_each_digit_is_a_token(tokenizer: Any) -> None:
    assert [t for t in tokenizer.tokenize("sum 2048") if t.isdigit()] == ["2", "0", "4", "8"]


def test_the_base_recalls_names_that_it_has_never_seen(tokenizer: Any, model: Any) -> None:
    """A value given earlier in the text is continued far better than one that was not."""
    d = Draw("recall")
    told, untold = [], []
    for _ in range(40):
        a, b, c, value, other = (*d.names(3), d.nonce().capitalize(), d.nonce().capitalize())
        for given_value, losses in ((value, told), (other, untold)):
            start = f"{a} has {given_value}. {b} has stone. {c} has paper. {a} has"
            head = tokenizer(start, return_tensors="pt").input_ids
            tail = tokenizer(f" {value}", return_tensors="pt").input_ids
            labels = torch.cat([torch.full_like(head, -100), tail], 1)
            with torch.no_grad():
                losses.append(float(model(input_ids=torch.cat([head, tail], 1), labels=labels).loss))
    assert sum(told) < 0.5 * sum(untold)


def test_a_resumed_run_ends_like_an_uninterrupted_one(tmp_path: Path) -> None:
    whole = pretrain.pretrain(TINY, tmp_path / "a", tmp_path / "a.work")
    pretrain.pretrain(TINY, tmp_path / "b", tmp_path / "b.work", stop_at=3)
    halves = pretrain.pretrain(TINY, tmp_path / "b", tmp_path / "b.work")
    first, second = (load_file(tmp_path / x / "model.safetensors") for x in "ab")
    assert all(torch.equal(first[k], second[k]) for k in first)
    assert halves["held_out_loss"] == whole["held_out_loss"]
    other = pretrain.pretrain(pretrain.Recipe(**{**whole["recipe"], "seed": 1}), tmp_path / "c", tmp_path / "c.work")
    assert other["held_out_loss"] != whole["held_out_loss"]


def test_the_schedule_warms_up_and_ends_at_zero() -> None:
    factors = [TINY.lr_factor(step) for step in range(TINY.steps + 1)]
    assert factors == [0.5, 1.0, 1.0, 1.0, 1.0, 0.5, 0.0]


def test_naming_the_base_loads_nothing_heavy() -> None:
    code = "import sys, posttrain.engine.base as b; sys.exit('torch' in sys.modules or not b.BASE_DIR.is_dir())"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
