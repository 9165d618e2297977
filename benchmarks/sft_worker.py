"""One run of one side of sft_vs_trl.py, in a process of its own: `python sft_worker.py JOB.json RESULT.json`.

Both sides train the same rows in the same order with the same optimiser settings, and report the same fields: the time
at the end of each step, each step's loss (taken before its update), real tokens, a digest of all ids and labels,
trained parameters, start-up and peak memory. Of the engine the peer's side uses only the spec, the order of the rows,
and the reader of the file; its ids and labels are made by transformers and compared with the engine's.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import resource
import sys
import time
from collections.abc import Sequence
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

IGNORED = -100
TokensAndLabels = tuple[list[int], list[int]]


def main(job_file: str, result_file: str) -> None:
    job = json.loads(Path(job_file).read_text("utf-8"))
    result = (run_engine if job["side"] == "engine" else run_peer)(job)
    result["peak_bytes"] = peak_bytes()
    Path(result_file).write_text(json.dumps(result), "utf-8")


# -- the same work on both sides ---------------------------------------------------------------------------------------


def spec_of(job: dict[str, Any]) -> Any:
    """The engine's job; the peer's settings are read from it too."""
    from posttrain.engine.spec import parse_spec

    lora = {"type": "lora", "rank": 16, "alpha": 32.0}
    return parse_spec(
        {
            "kind": "sft",
            "base": "base@1",
            "output": "bench",
            "data": [{"dataset": "data@1"}],
            "seed": job["seed"],
            "dtype": "float32",
            "adapter": lora if job["adapter"] == "lora" else {"type": "full"},
            "duration": {"type": "steps", "max_steps": job["steps"]},
            "batch": {"num_rows": job["batch_rows"]},
            "optimizer": {"learning_rate": 5e-4, "schedule": "constant", "warmup_ratio": 0.0},
            "checkpoint": {"every_steps": job["steps"] + 1},
        }
    )


def steps_of(spec: Any, num_rows: int) -> list[list[int]]:
    """Which rows each optimiser step takes: the engine's own order, which the peer is given."""
    from posttrain.engine.data.mixing import Mix, plan

    mix = Mix([num_rows], [1.0], spec.seed)
    planned = plan(spec.duration, spec.batch.num_rows, mix.epoch_rows)
    return [[mix.at(position)[1] for position in planned.positions(step)] for step in range(planned.total_steps)]


def engine_rows(job: dict[str, Any], tokenizer: Any) -> list[TokensAndLabels]:
    """Ids and labels of every row by the engine's encoder."""
    from posttrain.engine.data.encode import Encoder
    from posttrain.engine.data.template import ChatTemplate
    from posttrain.engine.data.validate import iter_examples

    encoder = Encoder(tokenizer, ChatTemplate(tokenizer.chat_template), (tokenizer.eos_token_id,))
    rows = [encoder.row(example, "all_turns") for _, example in iter_examples(Path(job["data"]), "messages")]
    return [(list(row.ids), labels_of(row.ids, row.is_target)) for row in rows]


def labels_of(ids: Sequence[int], mask: Sequence[int]) -> list[int]:
    return [token if is_target else IGNORED for token, is_target in zip(ids, mask, strict=True)]


def digest_of(steps: Sequence[Sequence[TokensAndLabels]]) -> str:
    """Of each step's rows, whatever their order within it: the step's loss does not depend on that."""
    return hashlib.sha256(json.dumps([sorted(step) for step in steps]).encode()).hexdigest()


def work_of(steps: Sequence[Sequence[TokensAndLabels]]) -> dict[str, Any]:
    return {
        "digest": digest_of(steps),
        "step_tokens": [sum(len(ids) for ids, _ in step) for step in steps],
        "trained_tokens": sum(label != IGNORED for step in steps for _, labels in step for label in labels),
    }


def peak_bytes() -> int:
    """Largest resident size of this process so far."""
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss also counts what the process was before exec
        for line in status.read_text("ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


# -- the engine --------------------------------------------------------------------------------------------------------


def run_engine(job: dict[str, Any]) -> dict[str, Any]:
    """A whole attempt as the service runs it; times are those of its events."""
    spec, folder, data = spec_of(job), Path(job["folder"]), Path(job["data"])

    import torch

    from posttrain.engine.events import EVENTS_FILE, Phase, StepMetrics, read_events
    from posttrain.engine.models import load_tokenizer
    from posttrain.engine.run import run_training
    from posttrain.engine.task import TrainTask

    sha256 = hashlib.sha256(data.read_bytes()).hexdigest()
    task = TrainTask.model_validate(
        {
            "type": "train",
            "job": "bench",
            "attempt": 1,
            "spec": spec,
            "base": {"ref": "base@1", "path": job["base"], "digest": "0" * 64, "weights_digest": "0" * 64},
            "datasets": [{"ref": "data@1", "path": str(data), "sha256": sha256, "format": "messages", "weight": 1.0}],
        }
    )
    record = run_training(task, folder)
    if record.status != "succeeded":
        raise RuntimeError(f"the engine's run ended {record.status}: {record.code}: {record.message}")
    events = [event for event, _ in read_events(folder / EVENTS_FILE)]
    begun = next(event.time for event in events if isinstance(event, Phase) and event.phase == "training")
    metrics = [event for event in events if isinstance(event, StepMetrics)]
    # The rows of the digest are encoded once more, so the attempt's own counts must agree with them.
    rows = engine_rows(job, load_tokenizer(task.base))
    work = work_of([[rows[index] for index in step] for step in steps_of(spec, len(rows))])
    if (record.summary["tokens"], record.summary["trained_tokens"]) != (
        sum(work["step_tokens"]),
        work["trained_tokens"],
    ):
        raise RuntimeError(f"the engine counted other tokens than its rows have: {record.summary}")
    return {
        **work,
        "losses": [event.values["loss"] for event in metrics],
        "ends_s": [event.time for event in metrics],
        "startup_s": begun - job["launched"],
        "trained_parameters": record.summary["num_trained_parameters"],
        "threads": torch.get_num_threads(),
    }


# -- the peer ----------------------------------------------------------------------------------------------------------


def run_peer(job: dict[str, Any]) -> dict[str, Any]:
    """TRL's SFTTrainer on a CPU: float32, no gradient checkpointing, no reports.

    A step's rows are cut into passes of equal numbers of rows as they come (padded) or sorted by length (grouped), or
    shared out to blocks of about equal length (packed), which keeps attention masks small.
    """
    import torch
    from datasets import Dataset, disable_progress_bars
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from transformers.trainer_callback import PrinterCallback
    from transformers.utils import logging
    from trl import SFTConfig, SFTTrainer

    disable_progress_bars()
    logging.disable_progress_bar()
    spec = spec_of(job)
    tokenizer = AutoTokenizer.from_pretrained(job["base"], local_files_only=True)
    module = AutoModelForCausalLM.from_pretrained(job["base"], dtype=torch.float32, local_files_only=True)
    rows = peer_rows(job, tokenizer)
    planned = steps_of(spec, len(rows))
    steps = [[rows[index] for index in step] for step in planned]
    layout, size = job["setting"].split(":")
    if layout == "packed":
        num_blocks = max(math.ceil(sum(len(ids) for ids, _ in step) / int(size)) for step in steps)
        blocks, per_pass = [block for step in steps for block in share_out(step, num_blocks)], 1
    else:
        ordered = [by_length(step) if layout == "grouped" else step for step in steps]
        blocks, per_pass = [[row] for step in ordered for row in step], int(size)
    passes = len(blocks) // len(steps) // per_pass
    options = SFTConfig(
        output_dir=job["folder"],
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to=[],
        save_strategy="no",
        logging_steps=1,
        disable_tqdm=True,
        dataloader_pin_memory=False,
        train_sampling_strategy="sequential",
        dataset_kwargs={"skip_prepare_dataset": True},
        packing=layout == "packed",
        max_length=max(sum(len(ids) for ids, _ in block) for block in blocks),
        per_device_train_batch_size=per_pass,
        gradient_accumulation_steps=passes,
        max_steps=spec.duration.max_steps,
        seed=spec.seed,
        optim="adamw_torch_fused",
        learning_rate=spec.optimizer.learning_rate,
        lr_scheduler_type="constant",
        weight_decay=spec.optimizer.weight_decay,
        adam_beta1=spec.optimizer.beta1,
        adam_beta2=spec.optimizer.beta2,
        adam_epsilon=spec.optimizer.epsilon,
        max_grad_norm=spec.optimizer.max_grad_norm,
    )
    torch.manual_seed(spec.seed)  # LoRA's A is drawn inside the trainer, from the same state as the engine's
    trainer = SFTTrainer(
        model=module,
        args=options,
        train_dataset=Dataset.from_list([packed_row(block) for block in blocks]),
        processing_class=tokenizer,
        peft_config=lora_config(spec),
    )
    trainer.remove_callback(PrinterCallback)

    class Clock(TrainerCallback):
        begun = 0.0

        def __init__(self) -> None:
            self.ends: list[float] = []

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.begun = self.begun or time.time()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            self.ends.append(time.time())

    # Not part of anybody's start-up: the rows are the engine's, to the last id and label.
    checking = time.time()
    check_same_rows(rows, engine_rows(job, tokenizer))
    held = [unpacked(trainer.train_dataset[index]) for index in range(len(trainer.train_dataset))]
    per_step = per_pass * passes
    parts = (held[start : start + per_step] for start in range(0, len(held), per_step))
    work = work_of([list(chain.from_iterable(part)) for part in parts])
    checked_s = time.time() - checking

    clock = Clock()
    trainer.add_callback(clock)
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    seen = [0, *(int(entry["num_tokens"]) for entry in logs)]  # counted by TRL from masks or positions: no padding
    if [after - before for before, after in pairwise(seen)] != work["step_tokens"]:
        raise RuntimeError(f"TRL counted {seen} tokens, but its rows have {work['step_tokens']} a step")
    return {
        **work,
        "losses": [entry["loss"] for entry in logs],
        "ends_s": clock.ends,
        "startup_s": clock.begun - checked_s - job["launched"],
        "trained_parameters": sum(p.numel() for p in trainer.model.parameters() if p.requires_grad),
        "threads": torch.get_num_threads(),
    }


def lora_config(spec: Any) -> Any:
    if spec.adapter.type == "full":
        return None
    from peft import LoraConfig

    adapter = spec.adapter
    return LoraConfig(r=adapter.rank, lora_alpha=adapter.alpha, target_modules="all-linear", task_type="CAUSAL_LM")


def peer_rows(job: dict[str, Any], tokenizer: Any) -> list[TokensAndLabels]:
    """Ids and labels as TRL makes them with `assistant_only_loss`, without the untrained tokens after the last trained
    one, which the engine does not compute either."""
    from posttrain.engine.data.validate import iter_examples

    rows = []
    for _, example in iter_examples(Path(job["data"]), "messages"):
        encoded = tokenizer.apply_chat_template(
            example.messages, tools=example.tools or None, return_dict=True, return_assistant_tokens_mask=True
        )
        ids, mask = encoded["input_ids"], encoded["assistant_masks"]
        used = len(mask) - mask[::-1].index(1)
        rows.append((list(ids[:used]), labels_of(ids[:used], mask[:used])))
    return rows


def check_same_rows(peers: list[TokensAndLabels], engines: list[TokensAndLabels]) -> None:
    """Raises RuntimeError unless both sides made the same ids and labels of every row."""
    differing = [number for number, pair in enumerate(zip(peers, engines, strict=True), start=1) if pair[0] != pair[1]]
    if differing:
        raise RuntimeError(f"rows {differing[:5]} have other ids or labels on the two sides ({len(differing)} in all)")


def by_length(step: Sequence[TokensAndLabels]) -> list[TokensAndLabels]:
    return sorted(step, key=lambda row: len(row[0]), reverse=True)


def share_out(step: Sequence[TokensAndLabels], num_blocks: int) -> list[list[TokensAndLabels]]:
    """The step's rows in exactly `num_blocks` blocks of about equal length: longest first into the shortest block."""
    blocks: list[list[TokensAndLabels]] = [[] for _ in range(num_blocks)]
    for row in by_length(step):
        min(blocks, key=lambda block: sum(len(ids) for ids, _ in block)).append(row)
    if not all(blocks):
        raise RuntimeError(f"{len(step)} rows cannot fill {num_blocks} blocks: raise the block's size")
    return blocks


def packed_row(block: list[TokensAndLabels]) -> dict[str, list[int]]:
    return {
        "input_ids": [token for ids, _ in block for token in ids],
        "labels": [label for _, labels in block for label in labels],
        "seq_lengths": [len(ids) for ids, _ in block],
    }


def unpacked(row: dict[str, list[int]]) -> list[TokensAndLabels]:
    """The rows of a block of the trainer's data set."""
    rows, start = [], 0
    for length in row["seq_lengths"]:
        part = slice(start, start + length)
        rows.append((list(row["input_ids"][part]), list(row["labels"][part])))
        start += length
    return rows


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    main(*sys.argv[1:])
