"""Loss and gradients of SFT equal TRL 1.16's SFTTrainer: from ready-made tokens, and from messages on.

TRL is a development dependency only. Both see the same tokens and masks; sums differ in their order alone: 1e-5.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset, disable_progress_bars
from transformers import PreTrainedTokenizerFast
from trl import SFTConfig, SFTTrainer

from posttrain.engine import attention
from posttrain.engine.data.encode import Encoder
from posttrain.engine.data.encoded import Row
from posttrain.engine.data.formats import read_conversation
from posttrain.engine.data.template import builtin_template
from posttrain.engine.methods import METHODS, Models
from posttrain.engine.models import LanguageModel
from tests.engine.test_packed_models import gradients, make_rows, parse_sft
from tests.engine.tiny import rows_of, tiny_module, tiny_tokenizer

pytestmark = pytest.mark.filterwarnings("ignore")  # TRL's and accelerate's own


def trl_trainer(
    name: str, data: list[dict[str, Any]], tokenizer: PreTrainedTokenizerFast, folder: Path, **settings: Any
) -> SFTTrainer:
    disable_progress_bars()
    options = SFTConfig(
        output_dir=str(folder),
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to=[],
        max_length=None,
        disable_tqdm=True,
        **settings,
    )
    module = tiny_module(name)
    module.set_attn_implementation("eager")
    return SFTTrainer(model=module, args=options, train_dataset=Dataset.from_list(data), processing_class=tokenizer)


def assert_parity(trainer: SFTTrainer, name: str, rows: list[Row]) -> None:
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(len(rows))])
    num_items = (batch["labels"][:, 1:] != -100).sum()
    assert int(num_items) == sum(row.num_targets for row in rows)
    trainer.model.eval()
    loss = trainer.compute_loss(trainer.model, dict(batch), num_items_in_batch=num_items)
    loss.backward()
    reference = {key: p.grad for key, p in trainer.model.named_parameters() if p.grad is not None}

    model = LanguageModel.of(tiny_module(name))
    assert model.module.config._attn_implementation == attention.NAME
    method = METHODS["sft"](parse_sft())
    mine, _ = method.loss(method.collate(rows, torch.device("cpu")), Models(model), method.window(rows, Models(model)))
    assert mine.item() == pytest.approx(loss.item(), rel=1e-5)
    found = gradients(model, mine)
    assert found.keys() == reference.keys()
    for key, gradient in reference.items():
        scale = float(gradient.abs().max())
        assert scale > 0
        torch.testing.assert_close(found[key], gradient, rtol=1e-5, atol=1e-5 * scale, msg=key)


@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_loss_and_gradients_of_tokens_equal_trls(name: str, tmp_path: Path) -> None:
    rows = make_rows()
    data = [{"input_ids": list(row.ids), "assistant_masks": list(row.is_target)} for row in rows]
    assert_parity(trl_trainer(name, data, tiny_tokenizer(), tmp_path), name, rows)


def test_loss_and_gradients_of_messages_equal_trls(tmp_path: Path) -> None:
    """From the messages on: the same template, the same tokens, the same assistant-only mask."""
    tokenizer, data = tiny_tokenizer(is_chat=True), rows_of(6)
    encoder = Encoder(tokenizer, builtin_template("chatml"), (tokenizer.eos_token_id,))
    rows = [encoder.row(read_conversation(row, "messages"), "all_turns") for row in data]
    assert_parity(trl_trainer("llama", data, tokenizer, tmp_path, assistant_only_loss=True), "llama", rows)
