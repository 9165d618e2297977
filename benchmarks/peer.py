"""TRL's side: its trainer's own methods, called in the order of transformers' training loop.

A layout says how a step's rows are laid out in forward passes, of which the step accumulates the gradients:

    padded:R    R rows, padded to the longest, in the order drawn
    grouped:R   the same, after sorting the step by length: what `group_by_length` is for
    packed:T    about T tokens a pass, evenly filled, in TRL's packed layout (no padding, a block-diagonal mask)
"""

from __future__ import annotations

import contextlib
import math
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.workload import Entry, build_model, sequences_of
from posttrain.engine.base import BASE_DIR
from posttrain.engine.data.encoded import AnyRow, Group

IGNORED = -100
Example = dict[str, Any]


def common_options(entry: Entry, folder: Path) -> dict[str, Any]:
    """TRL at its best on a CPU: float32, nothing recomputed, nothing reported; AdamW as the engine's."""
    return {
        "output_dir": str(folder),
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "report_to": [],
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        "optim": "adamw_torch_fused",
        "learning_rate": entry.learning_rate,
        "lr_scheduler_type": "constant",
        "warmup_steps": 0,
        "weight_decay": 0.0,
        "adam_beta1": 0.9,
        "adam_beta2": 0.999,
        "adam_epsilon": 1e-8,
        "max_grad_norm": 1.0,
        "max_length": None,
    }


class Peer:
    """One of TRL's trainers, with a model of its own."""

    def __init__(self, entry: Entry, model: str, num_steps: int, folder: Path) -> None:
        self._entry = entry
        self._references: dict[int, tuple[float, float]] = {}
        with quiet():
            self._trainer = make_trainer(entry, model, folder)
            self._trainer._prepare_for_training(num_steps, None, None)
        if entry.caches_reference:
            self._trainer.precompute_ref_logps = True  # they are put into the batches by `prepare`

    def weights(self) -> dict[str, Tensor]:
        """As `Ours.weights`."""
        named = self._trainer.model.named_parameters()
        return {name.removeprefix("base_model.model."): parameter for name, parameter in named}

    def trained(self) -> dict[str, nn.Parameter]:
        return {name: p for name, p in self.weights().items() if p.requires_grad and isinstance(p, nn.Parameter)}

    @property
    def tokens_seen(self) -> int:
        """TRL's own count of tokens, without padding."""
        return int(self._trainer._total_train_tokens)

    def prepare(self, rows: Sequence[AnyRow]) -> None:
        """Log-probabilities of the reference, where they are cached."""
        if not self._entry.caches_reference:
            return
        for row in rows:
            chosen, rejected = self._trainer.compute_ref_log_probs(self._trainer.model, self._collate([row], False))
            self._references[row.number] = (float(chosen), float(rejected))

    def passes(self, rows: Sequence[AnyRow], layout: str) -> list[Any]:
        """The step's forward passes, collated by TRL."""
        kind, size = layout.split(":")
        if kind == "packed":
            blocks = share_out(rows, math.ceil(sum(map(len, rows)) / int(size)))
            return [self._collate(block, True) for block in blocks]
        ordered = by_length(rows) if kind == "grouped" else list(rows)
        starts = range(0, len(ordered), int(size))
        return [self._collate(ordered[start : start + int(size)], False) for start in starts]

    def _collate(self, rows: Sequence[AnyRow], is_packed: bool) -> Any:
        collate = self._trainer.data_collator
        if is_packed:
            return type(collate)(pad_token_id=collate.pad_token_id, padding_free=True)([packed_example(rows)])
        examples = [EXAMPLES[self._entry.kind](row) for row in rows]
        for example, row in zip(examples, rows, strict=True):
            if row.number in self._references:
                example["ref_chosen_logps"], example["ref_rejected_logps"] = self._references[row.number]
        return collate(examples)

    def step(self, rows: Sequence[AnyRow], layout: str) -> float:
        """One optimiser step; returns its loss.

        As `Trainer._run_epoch` of transformers 5.23, without counters, callbacks and logging, which would only slow
        it down; a test compares the weights with those of `Trainer.train`.
        """
        trainer, model = self._trainer, self._trainer.model_wrapped
        passes = self.passes(rows, layout)
        samples, num_items = trainer.get_batch_samples(iter(passes), len(passes), trainer.args.device)
        trainer.current_gradient_accumulation_steps = len(samples)
        loss = torch.tensor(0.0)
        for index, inputs in enumerate(samples):
            is_last = index == len(samples) - 1
            trainer.accelerator.gradient_state._set_sync_gradients(is_last)
            with contextlib.nullcontext() if is_last else trainer.accelerator.no_sync(model=model):
                loss += trainer.training_step(model, inputs, num_items)
        trainer._get_grad_norm(model, grad_norm=trainer._clip_grad_norm(model))
        trainer.optimizer.step()
        trainer.lr_scheduler.step()
        model.zero_grad()
        return float(loss)


def make_trainer(entry: Entry, model: str, folder: Path) -> Any:
    """The entry's trainer. The rows that it is made with are asked for, and not used."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer, RewardConfig, RewardTrainer, SFTConfig, SFTTrainer

    common = common_options(entry, folder)
    pairs = Dataset.from_list([{"prompt": "the quick", "chosen": " brown fox", "rejected": " dog"}] * 2)
    given: dict[str, Any] = {"processing_class": tokenizer()}
    if entry.kind == "reward":
        options = RewardConfig(**common, center_rewards_coefficient=0.01)  # the engine's default
        return RewardTrainer(model=build_model(model, "sdpa", "reward"), args=options, train_dataset=pairs, **given)
    given |= {"model": build_model(model, "sdpa"), "peft_config": lora_config(entry)}
    if entry.kind == "dpo":
        return DPOTrainer(args=DPOConfig(**common, beta=0.1), train_dataset=pairs, **given)
    rows = Dataset.from_list([{"input_ids": [1, 2], "labels": [IGNORED, 2]}])
    options = SFTConfig(**common, dataset_kwargs={"skip_prepare_dataset": True})
    return SFTTrainer(args=options, train_dataset=rows, **given)


def tokenizer() -> Any:
    """The base's, of which only the padding token is used."""
    from transformers import AutoTokenizer

    found = AutoTokenizer.from_pretrained(BASE_DIR, local_files_only=True)
    found.pad_token = found.eos_token
    return found


def lora_config(entry: Entry) -> Any:
    if not entry.is_lora:
        return None
    from peft import LoraConfig

    rank, alpha = entry.adapter["rank"], entry.adapter["alpha"]
    return LoraConfig(r=rank, lora_alpha=alpha, target_modules="all-linear", task_type="CAUSAL_LM")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Libraries' warnings and progress bars say nothing about the comparison."""
    from datasets import disable_progress_bars
    from transformers.utils import logging

    os.environ["HF_HUB_OFFLINE"] = "1"
    disable_progress_bars()
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(verbosity)


def row_example(row: AnyRow) -> Example:
    ((ids, is_target),) = sequences_of(row)
    labels = [token if trained else IGNORED for token, trained in zip(ids, is_target, strict=True)]
    return {"input_ids": ids, "labels": labels}


def dpo_example(row: AnyRow) -> Example:
    assert isinstance(row, Group)
    chosen, rejected = row.branches
    return {"prompt_ids": list(row.prefix), "chosen_ids": list(chosen.ids), "rejected_ids": list(rejected.ids)}


def reward_example(row: AnyRow) -> Example:
    (chosen, _), (rejected, _) = sequences_of(row)
    return {"chosen_ids": chosen, "rejected_ids": rejected}


EXAMPLES = {"sft": row_example, "dpo": dpo_example, "reward": reward_example}


def packed_example(block: Sequence[AnyRow]) -> Example:
    examples = [row_example(row) for row in block]
    return {
        "input_ids": [token for example in examples for token in example["input_ids"]],
        "labels": [label for example in examples for label in example["labels"]],
        "seq_lengths": [len(row) for row in block],
    }


def by_length(rows: Sequence[AnyRow]) -> list[AnyRow]:
    return sorted(rows, key=len, reverse=True)


def share_out(rows: Sequence[AnyRow], num_blocks: int) -> list[list[AnyRow]]:
    """The rows in `num_blocks` blocks of about equal length, longest first into the shortest: masks stay small."""
    blocks: list[list[AnyRow]] = [[] for _ in range(min(num_blocks, len(rows)))]
    for row in by_length(rows):
        min(blocks, key=lambda block: sum(map(len, block))).append(row)
    return blocks
