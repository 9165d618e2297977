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
from posttrain.engine.errors import UnsupportedModelError
from posttrain.engine.models import LanguageModel

HEAD = "score"


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
