"""Losses, gradients and metrics of dpo, kto and reward equal TRL 1.16's trainers on the same tokens.

TRL repeats each prompt and pads; here a prompt is computed once for both answers. LoRA's B is random: at zero the
policy is the reference and every ratio is 0. Sums differ in their order alone: 1e-5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset, disable_progress_bars
from peft import LoraConfig
from torch import Tensor
from transformers import AutoModelForSequenceClassification
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer, RewardConfig, RewardTrainer

from posttrain.engine.adapters import add_lora
from posttrain.engine.data.encoded import AnyRow, Group
from posttrain.engine.methods import Models, method_of
from posttrain.engine.models import LanguageModel
from posttrain.engine.score import add_score_head, save_reward_model
from posttrain.engine.spec import LoraAdapter
from tests.engine.pairs import make_groups, padded, sequences_of, spec_of
from tests.engine.tiny import tiny_module, tiny_tokenizer

pytestmark = pytest.mark.filterwarnings("ignore")  # TRL's and accelerate's own

LORA = {"type": "lora", "rank": 3, "alpha": 6.0}
SETTINGS: dict[str, Any] = {
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "report_to": [],
    "disable_tqdm": True,
}
PEER_LORA = LoraConfig(r=3, lora_alpha=6, target_modules="all-linear", task_type="CAUSAL_LM")
PAIRS = Dataset.from_list([{"prompt": "the quick", "chosen": " brown fox", "rejected": " lazy dog"}] * 2)
LABELLED = Dataset.from_list([{"prompt": "the quick", "completion": " fox", "label": label} for label in (True, False)])


def randomise(module: Any) -> None:
    """Gives every B, and the score head, values that the names alone decide."""
    with torch.no_grad():
        for name, parameter in sorted(module.named_parameters()):
            if "lora_B" in name or name.endswith("score.weight"):
                seed = sum(map(ord, name.rsplit("layers.", 1)[-1].replace("base_model.model.", "")))
                parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed)) * 0.3)


def our_models(name: str, peer: Any) -> Models:
    """The same base with the same adapter weights as the peer's."""
    module = tiny_module(name)
    peft = add_lora(module, LoraAdapter(rank=3, alpha=6.0), "b@1")
    theirs = {bare(key): value for key, value in peer.named_parameters() if "lora_" in key}
    with torch.no_grad():
        for key, parameter in module.named_parameters():
            if "lora_" in key:
                parameter.copy_(theirs[key])
    return Models(LanguageModel.of(module), peft)


def bare(name: str) -> str:
    return name.removeprefix("base_model.model.")


def assert_same_gradients(models: Models, loss: Tensor, peer: Any, peers_loss: Tensor) -> None:
    assert loss.item() == pytest.approx(peers_loss.item(), rel=1e-5, abs=1e-7)
    peer.zero_grad()
    peers_loss.backward()  # type: ignore[no-untyped-call]
    reference = {bare(key): p.grad for key, p in peer.named_parameters() if p.grad is not None}
    models.policy.module.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    found = {key: p.grad for key, p in models.policy.trainable() if p.grad is not None}
    assert found.keys() == reference.keys()
    assert found
    for key, gradient in reference.items():
        scale = float(gradient.abs().max())
        assert scale > 0, key
        torch.testing.assert_close(found[key], gradient, rtol=1e-5, atol=1e-5 * scale, msg=key)


def our_loss(models: Models, spec: Any, groups: Sequence[AnyRow]) -> tuple[Tensor, dict[str, float]]:
    method = method_of(spec)
    rows = method.arrange(groups, 10_000)
    method.prepare([rows], models, lambda done, total: None)
    models.policy.module.eval()
    batch = method.collate(rows, torch.device("cpu"))
    return method.loss(batch, models, method.window(rows, models))


def peers_batch(groups: Sequence[Group]) -> dict[str, Tensor]:
    """Chosen answers, then rejected ones."""
    sequences = sequences_of(groups)
    ids, seen, targets = padded([*sequences[0::2], *sequences[1::2]])
    return {"input_ids": ids, "attention_mask": seen, "completion_mask": targets}


@pytest.fixture(scope="module")
def dpo_peer(tmp_path_factory: pytest.TempPathFactory) -> DPOTrainer:
    disable_progress_bars()
    module = tiny_module("llama")
    module.set_attn_implementation("eager")
    options = DPOConfig(output_dir=str(tmp_path_factory.mktemp("dpo")), **SETTINGS)
    trainer = DPOTrainer(
        model=module, args=options, train_dataset=PAIRS, processing_class=tiny_tokenizer(), peft_config=PEER_LORA
    )
    randomise(trainer.model)
    trainer.model.eval()
    return trainer


@pytest.mark.parametrize("reference", ["cached", "adapter_off"])
@pytest.mark.parametrize(
    ("loss", "options"),
    [
        ({"type": "sigmoid", "beta": 0.3}, {}),
        ({"type": "hinge", "beta": 0.02}, {}),
        ({"type": "ipo", "beta": 0.4}, {}),
        ({"type": "robust", "beta": 0.2, "label_smoothing": 0.15}, {}),
        ({"type": "sigmoid_norm", "beta": 2.0}, {}),
        ({"type": "sigmoid", "beta": 0.3}, {"nll_weight": 0.7}),
    ],
    ids=lambda value: value.get("type", "nll" if value else "") if isinstance(value, dict) else None,
)
def test_dpo_equals_trls(dpo_peer: DPOTrainer, loss: dict[str, Any], options: dict[str, Any], reference: str) -> None:
    groups = make_groups()
    peer = dpo_peer
    peer.beta, peer.label_smoothing = loss["beta"], loss.get("label_smoothing", 0.0)
    peer.loss_types, peer.loss_weights = [loss["type"]], [1.0]
    if options:
        peer.loss_types, peer.loss_weights = [loss["type"], "sft"], [1.0, options["nll_weight"]]
    peer._metrics["eval"].clear()
    peers_loss = peer.compute_loss(peer.model, peers_batch(groups))
    models = our_models("llama", peer.model)
    spec = spec_of("dpo", loss=loss, adapter=LORA, reference=reference, **options)
    mine, metrics = our_loss(models, spec, groups)
    assert_same_gradients(models, mine, peer.model, peers_loss)
    theirs = {key: values[0] for key, values in peer._metrics["eval"].items()}
    assert metrics["reward_accuracy"] == pytest.approx(theirs["rewards/accuracies"])
    assert metrics["logp_chosen"] == pytest.approx(theirs["logps/chosen"], rel=1e-5)
    if loss["type"] not in ("ipo", "sigmoid_norm"):  # here their rewards are per token, as the loss is
        assert metrics["reward_chosen"] == pytest.approx(theirs["rewards/chosen"], rel=1e-4)
        assert metrics["reward_margin"] == pytest.approx(theirs["rewards/margins"], rel=1e-4)


def test_kto_equals_trls(tmp_path: Path) -> None:
    """With z0 from the same mismatched answers: those of the next row."""
    groups = make_groups(seed=1, num_branches=1)
    module = tiny_module("llama")
    module.set_attn_implementation("eager")
    options = KTOConfig(
        output_dir=str(tmp_path),
        beta=0.3,
        desirable_weight=1.5,
        undesirable_weight=0.8,
        per_device_train_batch_size=2,
        **SETTINGS,
    )
    peer = KTOTrainer(
        model=module, args=options, train_dataset=LABELLED, processing_class=tiny_tokenizer(), peft_config=PEER_LORA
    )
    randomise(peer.model)
    peer.model.eval()
    others = [replace(group, branches=groups[(i + 1) % len(groups)].branches) for i, group in enumerate(groups)]
    ids, seen, targets = padded(sequences_of(groups))
    other_ids, other_seen, other_targets = padded(sequences_of(others))
    batch = {
        "input_ids": ids,
        "attention_mask": seen,
        "completion_mask": targets,
        "KL_input_ids": other_ids,
        "KL_attention_mask": other_seen,
        "KL_completion_mask": other_targets,
        "label": torch.tensor([group.is_desirable for group in groups]),
    }
    peers_loss = peer.compute_loss(peer.model, batch)
    assert peer._metrics["eval"]["kl"][0] > 0.01  # or z0 would not be compared
    loss = {"type": "kto", "beta": 0.3, "desirable_weight": 1.5, "undesirable_weight": 0.8}
    for reference in ("cached", "adapter_off"):
        models = our_models("llama", peer.model)
        mine, metrics = our_loss(models, spec_of("dpo", loss=loss, adapter=LORA, reference=reference), groups)
        assert metrics["divergence"] == pytest.approx(peer._metrics["eval"]["kl"][0], rel=1e-4)
        assert_same_gradients(models, mine, peer.model, peers_loss)
        peers_loss = peer.compute_loss(peer.model, batch)


@pytest.mark.parametrize("has_margin", [False, True])
def test_reward_equals_trls(tmp_path: Path, has_margin: bool) -> None:
    groups = [
        group if has_margin else Group(group.prefix, group.branches, "p@1", group.number) for group in make_groups()
    ]
    module = tiny_module("llama")
    model = LanguageModel.of(module)
    add_score_head(model, seed=3)
    randomise(module)
    save_reward_model(model, tmp_path / "saved", pad_id=None)
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved", attn_implementation="eager")
    theirs.config.pad_token_id = None  # it finds the last token by it; here that comes from the mask
    options = RewardConfig(output_dir=str(tmp_path), center_rewards_coefficient=0.05, **SETTINGS)
    tokenizer = tiny_tokenizer()
    peer = RewardTrainer(model=theirs, args=options, train_dataset=PAIRS, processing_class=tokenizer)
    peer.model.eval()
    peer.model.config.pad_token_id = 319  # no row of the test holds it
    sequences = sequences_of(groups)
    ids, seen, _ = padded([*sequences[0::2], *sequences[1::2]])
    assert not bool((ids == 319).any())
    inputs = {"input_ids": ids.masked_fill(seen == 0, 319), "attention_mask": seen}
    if has_margin:
        inputs["margin"] = torch.tensor([group.margin for group in groups])
    peers_loss = peer.compute_loss(peer.model, inputs)
    mine, metrics = our_loss(Models(model), spec_of("reward", centring=0.05), groups)
    assert_same_gradients(Models(model), mine, peer.model, peers_loss)
    assert metrics["reward_accuracy"] == pytest.approx(peer._metrics["eval"]["accuracy"][0])
    assert metrics["reward_margin"] == pytest.approx(peer._metrics["eval"]["margin"][0], rel=1e-4)
