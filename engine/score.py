"""Reward models: a causal LM's backbone with a linear head of one output, saved as transformers'
`...ForSequenceClassification` with one label.

Shape suffixes: T packed tokens, S sequences, D model width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification

from posttrain.engine.data.packing import Batch
from posttrain.engine.errors import ModelError, UnsupportedModelError
from posttrain.engine.exactness import check_exactness
from posttrain.engine.models import (
    LanguageModel,
    check_input,
    check_unchanged,
    is_reward_model,
    load_weights,
    read_config,
)
from posttrain.engine.task import ModelInput

HEAD = "score"


class RewardModel(LanguageModel):
    """A scoring model of transformers with one label, for packed passes; its head is the score's, so that `logits` are
    scores [N, 1]."""

    @property
    def head(self) -> nn.Module:
        head: nn.Module = self.module.score
        return head


def load_reward_model(source: ModelInput, dtype: torch.dtype, device: torch.device) -> RewardModel:
    """A reward model, in eval mode and without gradients; its packed path is checked against its own backbone.

    Raises:
        ModelError (and below): its files are not the recorded ones, or not safe to load; it is no reward model of one
            score; its weights do not fill the architecture.
        UnsupportedModelError: the architecture does not leave its attention to others, or packed rows differ.
    """
    check_reward_model(source)
    module = load_weights(AutoModelForSequenceClassification, source, read_config(source), dtype)
    check_unchanged(source)  # hashed before by check_reward_model: what was read in between is what was recorded
    if not isinstance(getattr(module, HEAD, None), nn.Linear) or module.base_model is module:
        raise UnsupportedModelError(f"{source.ref}: {type(module).__name__} does not score by one linear head")
    module.requires_grad_(False)
    model = RewardModel(module.to(device).eval(), scale=1.0, soft_cap=0.0)
    check_exactness(model, by_backbone=True)
    return model


def check_reward_model(source: ModelInput) -> None:
    """Hashes the files of a reward model and reads its config; no weights are loaded.

    Raises:
        ModelError (and below): as `load_reward_model`.
    """
    check_input(source)
    config = read_config(source)
    if not is_reward_model(config) or source.adapters:
        raise ModelError(
            f"{source.ref} is no reward model",
            hint="a version that kind: reward made, or transformers' ForSequenceClassification with one label",
        )
    if config.num_labels != 1:
        raise ModelError(f"{source.ref} has {config.num_labels} labels: a reward model has one score")


def add_score_head(model: LanguageModel, seed: int) -> None:
    """Puts a trained head beside the model's own, which is no longer used.

    Starts as N(0, 1/(D+1)), so that scores are of the order of 1 (arXiv:2009.01325, appendix B.1).

    Raises:
        UnsupportedModelError: transformers has no scoring model of this architecture with one linear head `score`.
    """
    classifier = _empty_classifier(model)
    expected = {name for name in classifier.state_dict() if not name.startswith(classifier.base_model_prefix + ".")}
    if expected != {f"{HEAD}.weight"}:
        raise UnsupportedModelError(f"{type(classifier).__name__} scores by {sorted(expected)}, not by one linear head")
    width = classifier.score.in_features
    head = nn.Linear(width, 1, bias=False, device=model.device, dtype=model.module.dtype)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        head.weight.copy_(torch.randn(1, width, generator=generator) / math.sqrt(width + 1))
    model.module.add_module(HEAD, head)
    own = model.head
    if own.weight is not model.module.get_input_embeddings().weight:
        own.requires_grad_(False)  # nothing depends on it


def sequence_scores(batch: Batch, model: LanguageModel) -> Tensor:
    """The score of each sequence, at its last token; [S] in float32.

    Rows end with the stop token, unless they were cut: whoever asks for a score ends the input with it, too.
    """
    hidden_TD = model.hidden(batch.input_ids_T, batch.position_ids_T, batch.segments)
    scores_S1: Tensor = model.module.score(hidden_TD[batch.ends_S])
    return scores_S1.squeeze(-1).float()


def use_other_padding(tokenizer: Any, stop_ids: Sequence[int]) -> int | None:
    """The id to pad with, which the tokenizer pads with from then on; None if it has none but stop tokens.

    transformers scores at the last token that is not padding, the engine at the stop token: a model that pads with its
    stop token would be asked at the token before it. Without an id transformers refuses to score several rows at once.
    """
    usable = [tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.bos_token_id, *tokenizer.all_special_ids]
    pad_id = next((index for index in usable if index is not None and index not in stop_ids), None)
    tokenizer.pad_token = None if pad_id is None else tokenizer.convert_ids_to_tokens(pad_id)
    return pad_id


def save_reward_model(model: LanguageModel, folder: Path, pad_id: int | None) -> None:
    """Writes the backbone and the score head as a Hugging Face folder; adapters must have been merged."""
    classifier = _empty_classifier(model)
    prefix = classifier.base_model_prefix + "."
    own = {name: tensor for name, tensor in model.module.state_dict().items() if name.startswith((prefix, HEAD + "."))}
    classifier.load_state_dict(own, assign=True, strict=True)
    classifier.config.pad_token_id = pad_id
    classifier.save_pretrained(folder)


def _empty_classifier(model: LanguageModel) -> Any:
    """The architecture's scoring model without memory for its weights.

    Raises:
        UnsupportedModelError: there is none.
    """
    config = type(model.module.config).from_dict({**model.module.config.to_dict(), "num_labels": 1})
    config.architectures = None
    try:
        with torch.device("meta"):
            return AutoModelForSequenceClassification.from_config(config, dtype=model.module.dtype)
    except ValueError as error:
        raise UnsupportedModelError(f"{model.name}: transformers has no scoring model with this backbone") from error
