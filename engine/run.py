"""Runs one training attempt: a task and a folder in; events, checkpoints, a Hugging Face folder and an exit record out.

Whatever happens is in the exit record, written last; a process that dies before that was interrupted. The data is
read and encoded before weights are loaded, so a bad row is told in seconds.
"""

from __future__ import annotations

import copy
import importlib.metadata
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig
from transformers.utils import logging as transformers_logging

from posttrain.engine.attempt import RESERVE_BYTES, Events, ShouldStop, run_attempt
from posttrain.engine.checkpoint import Checkpoint, commit_folder, disk_errors, new_folder, newest_sound
from posttrain.engine.data.encode import Encoder
from posttrain.engine.data.encoded import AnyRow
from posttrain.engine.data.mixing import check_shares
from posttrain.engine.data.reading import RowReader, key_parts
from posttrain.engine.data.token_cache import TokenCache
from posttrain.engine.data.views import Chain, sizes_of
from posttrain.engine.embeddings import init_rows, resize_rows
from posttrain.engine.environments.tools import check_allowed as check_tools
from posttrain.engine.errors import CancelledError, ModelError
from posttrain.engine.events import AnyEvent, ExitRecord, Note, Phase, Progress
from posttrain.engine.exactness import check_exactness
from posttrain.engine.held_out import arrange_side, split_share
from posttrain.engine.loop import Trainer
from posttrain.engine.methods import Method, Models, method_of
from posttrain.engine.models import (
    LanguageModel,
    check_input,
    check_unchanged,
    context_of,
    default_device,
    load_config,
    load_model,
    load_tokenizer,
    resolve_dtype,
    stop_ids_of,
)
from posttrain.engine.optim import check_update_rule
from posttrain.engine.plan import check_fits, memory_limit_bytes, memory_plan, read_shapes
from posttrain.engine.quantization import check_quantization, quantize, quantized_lora
from posttrain.engine.rewards.functions import check_allowed
from posttrain.engine.rewards.model import RewardModels, check_judges
from posttrain.engine.score import add_score_head, save_reward_model, use_other_padding
from posttrain.engine.spec import BuiltinTemplate, HeldOutData, HeldOutShare, LoraAdapter, spec_digest
from posttrain.engine.task import CHECKPOINTS_FOLDER, OUTPUT_FOLDER, ModelInput, TrainTask
from posttrain.engine.trackers import tracked
from posttrain.engine.value import ValueModel

__all__ = ["RESERVE_BYTES", "run_training"]

PROGRESS_EVERY_S = 1.0


def run_training(task: TrainTask, folder: Path) -> ExitRecord:
    """Runs a training task in its attempt folder and returns the exit record that it wrote there.

    Raises:
        OSError: not even the exit record could be written; the attempt then counts as interrupted.
    """

    def work(events: Events, should_stop: ShouldStop) -> dict[str, Any]:
        with _repeatable(task.spec.seed), tracked(task, folder, events) as emit:
            return _Attempt(task, folder, emit, should_stop).run()

    record = run_attempt(folder, task.attempt, work)
    if record.status == "succeeded":
        # Only now: until the exit record is there, a killed attempt resumes from them.
        shutil.rmtree(folder / CHECKPOINTS_FOLDER, ignore_errors=True)
    return record


@dataclass
class _Attempt:
    task: TrainTask
    folder: Path
    events: Callable[[AnyEvent], None]
    should_stop: ShouldStop
    phase: str = "loading"
    told_s: float = 0.0

    def run(self) -> dict[str, Any]:
        spec, base = self.task.spec, self.task.base
        self._phase("loading")
        check_update_rule(spec.optimizer, default_device())
        check_quantization(spec.adapter)
        check_allowed(getattr(spec, "rewards", ()), self.task.reward_modules)
        check_tools(spec, self.task.python_tool)
        check_input(base)
        config, tokenizer = load_config(base), load_tokenizer(base)
        method = method_of(spec)
        num_known = len(tokenizer)
        template, row_ids = method.prepare_tokenizer(tokenizer)
        stop_ids = turn_stop_ids(base, tokenizer, config, isinstance(spec.template, BuiltinTemplate))
        judges = check_judges(getattr(spec, "rewards", ()), self.task.reward_models, tokenizer, template, stop_ids)

        self._phase("data")
        limit = min(spec.batch.max_tokens, context_of(config))
        if limit < spec.batch.max_tokens:
            self._note(f"batch.max_tokens is {spec.batch.max_tokens}, but the model's context of {limit} is the limit")
        encoder = Encoder(tokenizer, template, stop_ids)
        reader = RowReader(
            lambda example, source, number: method.encode(example, encoder, source, number),
            method.report,
            limit,
            spec.batch.overlong,
            self._tell,
            self.events,
            self._cache(),
            key_parts(spec, base, template.digest, template.special_tokens, stop_ids, _versions()),
        )
        encoded = [reader.read(dataset) for dataset in self.task.datasets]
        sources, held_out = self._hold_out(encoded, method, reader, limit)
        check_shares(
            [source.dataset for source in spec.data], list(map(len, sources)), [source.weight for source in spec.data]
        )

        self._phase("loading")
        digest = self.task.spec_sha256 or spec_digest(spec)
        checkpoint = self._resumed(digest)
        device = default_device()
        self._check_memory(sources, device)
        model = self._load(device, tokenizer)
        self._check_stop()
        peft = self._adapt(model, tokenizer, num_known, row_ids)
        if method.makes == "reward_model":
            add_score_head(model, spec.seed)
        frozen = frozen_copy(model) if method.keeps_reference and peft is None else None
        value = ValueModel.beside(model, peft) if method.keeps_value else None
        models = Models(model, peft, frozen, value)
        if judges:
            loaded = [judge.load(spec.dtype, device) for judge in judges]
            models.reward_models = RewardModels(loaded, spec.batch.micro_tokens)
        if method.caches_reference:
            self._phase("reference")
            method.prepare([*sources, held_out], models, self._tell)

        checkpoints = self.folder / CHECKPOINTS_FOLDER
        trainer = Trainer(spec, method, models, sources, self.events, checkpoints, self.should_stop, held_out, digest)
        if checkpoint is not None:
            trainer.resume(checkpoint)
        self._phase("training")
        started = time.monotonic()
        counters = trainer.run()
        seconds = time.monotonic() - started

        self._phase("saving")
        num_trained = sum(parameter.numel() for _, parameter in model.trainable())  # saving may merge them away
        if value is not None:
            value.remove(peft)
        self._save(model, peft, tokenizer, method.makes)
        return {
            "loss": counters.loss,
            "steps": counters.step,
            "tokens": counters.tokens,
            "trained_tokens": counters.trained_tokens,
            "rows": counters.rows,
            "training_s": round(seconds, 3),
            "template_digest": template.digest,
            "num_trained_parameters": num_trained,
            **trainer.outcome(),
        }

    # -- data ----------------------------------------------------------------------------------------------------------

    def _check_memory(self, sources: list[Any], device: torch.device) -> None:
        """Refuses what cannot fit before it takes minutes, or other processes down. Raises SpecError."""
        spec = self.task.spec
        try:
            shapes = read_shapes(Path(self.task.base.path))
            judges = [read_shapes(Path(judge.path)) for judge in self.task.reward_models]
        except ModelError:
            return  # an architecture with other names for its sizes is not estimated
        sizes = [sizes_of(rows) for rows in sources]
        num_rows = sum(map(len, sources))
        step_tokens = spec.batch.num_rows * sum(size.num_tokens for size in sizes) // num_rows
        is_cuda = device.type == "cuda"
        found = memory_plan(
            spec,
            shapes,
            is_cuda=is_cuda,
            longest=max(size.longest for size in sizes),
            largest=max(size.largest for size in sizes),
            step_tokens=step_tokens,
            judges=judges,
        )
        limit = torch.cuda.get_device_properties(device).total_memory if is_cuda else memory_limit_bytes()
        check_fits(found, limit, spec)

    def _cache(self) -> TokenCache | None:
        if not self.task.cache:
            return None
        try:
            return TokenCache(Path(self.task.cache))
        except OSError as error:
            self._note(f"encoded rows are not kept on disk: {error}", "warning")
            return None

    def _hold_out(
        self, sources: Sequence[Sequence[AnyRow]], method: Method, reader: RowReader, limit: int
    ) -> tuple[list[Sequence[AnyRow]], Sequence[AnyRow]]:
        """The rows to train on by source, and those to be held out, arranged apart: neither knows of the other."""
        options, held = self.task.spec.held_out, list[Sequence[AnyRow]]()
        if isinstance(options, HeldOutShare):
            names = [dataset.ref for dataset in self.task.datasets]
            sources, held = split_share(names, sources, options.ratio, self.task.spec.seed)
            num_held = sum(map(len, held))
            self._note(f"held out: {num_held} of {num_held + sum(map(len, sources))} rows")
        elif isinstance(options, HeldOutData):
            held = [reader.read(dataset) for dataset in self.task.held_out]
        kept = [arrange_side(method, rows, limit, options, is_held=False) for rows in sources]
        return kept, Chain([arrange_side(method, rows, limit, options, is_held=True) for rows in held if len(rows)])

    # -- model ---------------------------------------------------------------------------------------------------------

    def _resumed(self, digest: str) -> Checkpoint | None:
        """The checkpoint to go on from, if there is one. From here on this process has as many threads as the one that
        wrote it: what is computed before the training, a cached reference, has to come out as it did there.

        Raises:
            CheckpointError: none is sound.
        """
        if not self.task.resume_from:
            return None
        checkpoint, skipped = newest_sound(Path(self.task.resume_from), digest)
        for reason in skipped:
            self._note(f"skipped: {reason}", "warning")
        torch.set_num_threads(checkpoint.state["num_threads"])
        return checkpoint

    def _load(self, device: torch.device, tokenizer: Any) -> LanguageModel:
        """The input model, quantised if asked for: on a GPU it is never whole then."""
        base, spec, lora = self.task.base, self.task.spec, quantized_lora(self.task.spec.adapter)
        where = device if lora is None else torch.device("cpu")
        model = load_model(base, resolve_dtype(spec.dtype, device), where, tokenizer)
        check_unchanged(base)  # hashed before by check_input: what was read in between is what was recorded
        if lora is not None:
            quantize(model.module, lora, device)
        check_exactness(model)
        return model

    def _adapt(self, model: LanguageModel, tokenizer: Any, num_known: int, row_ids: list[int]) -> Any:
        """New token rows, stop token, and LoRA if asked for; returns the peft model, or None for full fine-tuning."""
        spec, module = self.task.spec, model.module
        resize_rows(module, len(tokenizer), spec.seed)
        init_rows(module, [index for index in row_ids if index >= num_known], spec.seed)
        if isinstance(spec.template, BuiltinTemplate):
            for settings in (module.config, module.generation_config):
                settings.eos_token_id = tokenizer.eos_token_id
                settings.pad_token_id = tokenizer.pad_token_id
        torch.manual_seed(spec.seed)  # LoRA's A and dropout do not depend on what was drawn before
        if isinstance(spec.adapter, LoraAdapter):
            from posttrain.engine.adapters import add_lora  # importing peft takes seconds

            return add_lora(module, spec.adapter, self.task.base.ref, row_ids)
        module.requires_grad_(True)
        return None

    def _save(self, model: LanguageModel, peft: Any, tokenizer: Any, makes: str) -> None:
        temporary, target = self.folder / f".{OUTPUT_FOLDER}.tmp", self.folder / OUTPUT_FOLDER
        with disk_errors("saving the model"), new_folder(temporary):
            if peft is not None and (makes == "reward_model" or quantized_lora(self.task.spec.adapter)):
                from posttrain.engine.adapters import merge_trained

                merge_trained(peft)
                peft = None
            if makes == "reward_model":
                stop_ids = stop_ids_of(tokenizer, model.module.generation_config, model.module.config)
                save_reward_model(model, temporary, use_other_padding(tokenizer, stop_ids))
            elif peft is None:
                model.module.save_pretrained(temporary)
            else:
                from posttrain.engine.adapters import save_adapter

                save_adapter(peft, temporary)
                model.module.generation_config.save_pretrained(temporary)
            tokenizer.save_pretrained(temporary)  # with the chat template
            commit_folder(temporary, target)

    # -- small things --------------------------------------------------------------------------------------------------

    def _phase(self, phase: str) -> None:
        self._check_stop()
        self.phase, self.told_s = phase, time.monotonic()
        self.events(Phase(phase=phase))

    def _note(self, message: str, level: str = "info") -> None:
        self.events(Note.model_validate({"message": message, "level": level}))

    def _tell(self, done: int, total: int) -> None:
        """Progress of the phase, at most once a second; the moment at which a stop is noticed."""
        if time.monotonic() - self.told_s > PROGRESS_EVERY_S:
            self.told_s = time.monotonic()
            self._check_stop()
            self.events(Progress(phase=self.phase, done=done, total=total))

    def _check_stop(self) -> None:
        if self.should_stop():
            raise CancelledError("stopped before training began")


def frozen_copy(model: LanguageModel) -> LanguageModel:
    """The model as it is now, with weights of its own that are not trained."""
    module = copy.deepcopy(model.module)
    module.requires_grad_(False)
    return replace(model, module=module.eval())


def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in ("jinja2", "posttrain", "tokenizers", "transformers")}


def turn_stop_ids(base: ModelInput, tokenizer: Any, config: Any, is_builtin: bool) -> tuple[int, ...]:
    """What ends a turn: the tokenizer's end token with a built-in template, else all that the base's configs name."""
    if is_builtin:
        return (tokenizer.eos_token_id,)
    has_file = (Path(base.path) / "generation_config.json").is_file()
    generation = GenerationConfig.from_pretrained(base.path, local_files_only=True) if has_file else None
    return stop_ids_of(tokenizer, generation, config)


@contextmanager
def _repeatable(seed: int) -> Iterator[None]:
    """Same task, same machine: same weights, bit by bit."""
    deterministic: Any = torch.utils.deterministic  # its attributes are made at run time
    was, filled = torch.are_deterministic_algorithms_enabled(), deterministic.fill_uninitialized_memory
    threads, bar = torch.get_num_threads(), transformers_logging.is_progress_bar_enabled()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when it starts
    torch.use_deterministic_algorithms(True, warn_only=True)
    deterministic.fill_uninitialized_memory = False  # all that is read here was written
    transformers_logging.disable_progress_bar()
    torch.manual_seed(seed)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(was, warn_only=True)
        deterministic.fill_uninitialized_memory = filled
        torch.set_num_threads(threads)
        if bar:
            transformers_logging.enable_progress_bar()
