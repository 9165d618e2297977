"""Losses, gradients and metrics of grpo equal TRL 1.16's GRPOTrainer and RLOOTrainer on the same tokens.

TRL repeats each prompt and pads; here a prompt is computed once for its completions. LoRA's B is random: at zero the
policy is the reference. Old log-probabilities are moved at random, so that ratios leave the clipping range on both
sides.
"""

from __future__ import annotations

from array import array
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset, disable_progress_bars
from torch import Tensor
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

from posttrain.engine.data.packing import split
from posttrain.engine.experience import Experience
from posttrain.engine.methods import Models, method_of
from tests.engine.pairs import G, make_experience, spec_of
from tests.engine.test_preference_parity import LORA, PEER_LORA, SETTINGS, assert_same_gradients, our_models, randomise
from tests.engine.tiny import tiny_module, tiny_tokenizer

pytestmark = pytest.mark.filterwarnings("ignore")  # TRL's and accelerate's own

PROMPTS = Dataset.from_list([{"prompt": "the quick"}] * 4)
MAX_NEW = 16
UPDATE = {"num_epochs": 2}


def peers_inputs(groups: list[Experience]) -> dict[str, Tensor]:
    """Prompts padded on the left, completions on the right."""
    rows = [(group.prefix, branch.ids) for group in groups for branch in group.branches]
    longest_prompt = max(len(prompt) for prompt, _ in rows)
    longest = max(len(ids) for _, ids in rows)
    prompt_ids, prompt_mask = (torch.zeros(len(rows), longest_prompt, dtype=torch.long) for _ in range(2))
    ids, mask = (torch.zeros(len(rows), longest, dtype=torch.long) for _ in range(2))
    for i, (prompt, completion) in enumerate(rows):
        prompt_ids[i, -len(prompt) :] = torch.tensor(prompt)
        prompt_mask[i, -len(prompt) :] = 1
        ids[i, : len(completion)] = torch.tensor(completion)
        mask[i, : len(completion)] = 1
    advantages = [trained.advantages[0] for group in groups for trained in group.trained]
    return {
        "prompt_ids": prompt_ids,
        "prompt_mask": prompt_mask,
        "completion_ids": ids,
        "completion_mask": mask,
        "advantages": torch.tensor(advantages),
        "num_items_in_batch": mask.sum(),
    }


def padded_values(inputs: dict[str, Tensor], groups: list[Experience], name: str) -> Tensor:
    values = torch.zeros(inputs["completion_mask"].shape)
    numbers = [getattr(trained, name) for group in groups for trained in group.trained]
    for i, row in enumerate(numbers):
        values[i, : len(row)] = torch.tensor(row)
    return values


def with_values(groups: list[Experience], values: Tensor, name: str) -> list[Experience]:
    """The groups with a number for each token, from rows as TRL has them."""
    rows = iter(values.double().tolist())
    return [
        replace(
            group,
            trained=tuple(
                replace(trained, **{name: array("d", next(rows)[: len(trained.advantages)])})
                for trained in group.trained
            ),
        )
        for group in groups
    ]


@pytest.fixture(scope="module")
def peers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    disable_progress_bars()
    made: dict[str, Any] = {}
    common = {**SETTINGS, "num_generations": G, "max_completion_length": MAX_NEW, "per_device_train_batch_size": G}
    for name, config, trainer in (("grpo", GRPOConfig, GRPOTrainer), ("rloo", RLOOConfig, RLOOTrainer)):
        module = tiny_module("llama")
        module.set_attn_implementation("eager")
        options = config(output_dir=str(tmp_path_factory.mktemp(name)), **common)
        made[name] = trainer(
            model=module,
            args=options,
            train_dataset=PROMPTS,
            processing_class=tiny_tokenizer(),
            peft_config=PEER_LORA,
            reward_funcs=lambda completions, **_: [0.0] * len(completions),
        )
        randomise(made[name].model)
        made[name].model.eval()
    made["grpo"].current_gradient_accumulation_steps = 1
    return made


@torch.no_grad()
def peers_logps(peer: Any, inputs: dict[str, Tensor]) -> Tensor:
    ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
    mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)
    logps, *_ = peer._get_per_token_logps_and_entropies(peer.model, ids, mask, inputs["completion_ids"].shape[1])
    assert isinstance(logps, Tensor)
    return logps


def moved(logps: Tensor, scale: float, seed: int) -> Tensor:
    return logps + scale * torch.randn(logps.shape, generator=torch.Generator().manual_seed(seed))


def our_loss(
    models: Models, spec: Any, groups: list[Experience], micro_tokens: int = 10_000
) -> tuple[Tensor, dict[str, float]]:
    method = method_of(spec)
    models.policy.module.eval()
    window = method.window(groups, models)
    total, sums = torch.zeros(()), dict[str, float]()
    for micro in split(method.computed(groups), micro_tokens):
        share, metrics = method.loss(method.collate(micro, torch.device("cpu")), models, window)
        total = total + share
        for key, value in metrics.items():
            sums[key] = sums.get(key, 0.0) + value
    return total, sums


LOSSES = {
    "grpo": ({"type": "grpo"}, "grpo", "token"),
    "dr_grpo": ({"type": "dr_grpo"}, "dr_grpo", "token"),
    "dapo": ({"type": "dapo"}, "dapo", "token"),
    "gspo": ({"type": "gspo", "clip_low": 0.05, "clip_high": 0.06}, "grpo", "sequence"),
}


@pytest.mark.parametrize(("beta", "is_corrected"), [(0.0, True), (0.2, True), (0.2, False)])
@pytest.mark.parametrize("name", LOSSES)
def test_grpo_equals_trls(peers: dict[str, Any], name: str, beta: float, is_corrected: bool) -> None:
    loss, loss_type, level = LOSSES[name]
    spec = spec_of(
        "grpo", loss=loss, beta=beta, kl_correction=is_corrected, adapter=LORA, update=UPDATE,
        rollout={"num_completions": G, "max_new_tokens": MAX_NEW},
    )  # fmt: skip
    peer, groups = peers["grpo"], make_experience()
    peer.loss_type, peer.importance_sampling_level, peer.beta = loss_type, level, beta
    peer.epsilon_low, peer.epsilon_high = spec.loss.clip_low, spec.loss.clip_high
    peer.args.use_bias_correction_kl = is_corrected
    inputs = peers_inputs(groups)
    current = peers_logps(peer, inputs)
    inputs["old_per_token_logps"] = moved(current, 0.4, 1)
    inputs["ref_per_token_logps"] = moved(current, 0.3, 2)
    peer._metrics["eval"].clear()
    peers_loss = peer.compute_loss(peer.model, inputs)
    for source, target in (("old_per_token_logps", "old"), ("ref_per_token_logps", "reference")):
        groups = with_values(groups, inputs[source], target)
    groups = with_values(groups, inputs["old_per_token_logps"], "sampled")
    models = our_models("llama", peer.model)
    mine, metrics = our_loss(models, spec, groups)
    assert_same_gradients(models, mine, peer.model, peers_loss)
    theirs = {key: values[0] for key, values in peer._metrics["eval"].items()}
    assert 0.05 < theirs["clip_ratio/region_mean"] < 0.95  # or clipping would not be compared
    assert metrics["clip_fraction"] == pytest.approx(theirs["clip_ratio/region_mean"], rel=1e-5)
    if beta:
        assert metrics["kl"] == pytest.approx(theirs["kl"], rel=1e-5)
    # Split into passes of a completion each, with the prompt computed for every one of them: nothing changes.
    split_spec = spec.model_copy(update={"batch": spec.batch.model_copy(update={"micro_tokens": 1})})
    parts, split_metrics = our_loss(models, split_spec, groups, micro_tokens=1)
    assert parts.item() == pytest.approx(mine.item(), rel=1e-5, abs=1e-7)
    assert split_metrics["clip_fraction"] == pytest.approx(metrics["clip_fraction"], rel=1e-5)


@pytest.mark.parametrize("temperature", [0.7, 1.5])
def test_the_loss_is_of_the_policy_that_was_sampled_from(peers: dict[str, Any], temperature: float) -> None:
    """TRL scales logits by the temperature as well."""
    peer, groups = peers["grpo"], make_experience(seed=3)
    peer.loss_type, peer.importance_sampling_level, peer.beta = "grpo", "token", 0.0
    peer.epsilon_low = peer.epsilon_high = 0.2
    models = our_models("llama", peer.model)
    spec = spec_of("grpo", adapter=LORA, update=UPDATE, rollout={"temperature": temperature, "max_new_tokens": MAX_NEW})
    inputs = peers_inputs(groups)
    rows = [[*group.prefix, *branch.ids] for group in groups for branch in group.branches]
    assert len(rows) == len(inputs["advantages"])
    inputs["old_per_token_logps"] = moved(peers_logps(peer, inputs), 0.3, 4)
    groups = with_values(groups, inputs["old_per_token_logps"], "old")
    groups = with_values(groups, inputs["old_per_token_logps"], "sampled")
    before = peer.model.get_output_embeddings().weight.data.clone()
    expected, _ = our_loss(models, spec, groups)
    plain, _ = our_loss(
        models, spec.model_copy(update={"rollout": spec.rollout.model_copy(update={"temperature": 1.0})}), groups
    )
    assert expected.item() != pytest.approx(plain.item(), rel=1e-3)
    # A head divided by the temperature gives the same logits at temperature 1.
    head = models.policy.module.get_output_embeddings()
    head.weight = torch.nn.Parameter(head.weight.detach().clone() / temperature, requires_grad=False)
    scaled, _ = our_loss(
        models, spec.model_copy(update={"rollout": spec.rollout.model_copy(update={"temperature": 1.0})}), groups
    )
    assert scaled.item() == pytest.approx(expected.item(), rel=1e-5)
    assert torch.equal(before, peer.model.get_output_embeddings().weight.data)


def test_rloo_equals_trls(peers: dict[str, Any]) -> None:
    peer, groups = peers["rloo"], make_experience(seed=1)
    spec = spec_of(
        "grpo", loss={"type": "rloo", "clip_low": 0.5, "clip_high": 0.6}, adapter=LORA, update=UPDATE,
        rollout={"num_completions": G, "max_new_tokens": MAX_NEW},
    )  # fmt: skip
    peer.epsilon_low, peer.epsilon_high = 0.5, 0.6
    inputs = peers_inputs(groups)
    old = moved(peers_logps(peer, inputs), 0.2, 5) * inputs["completion_mask"]
    inputs["old_logps"] = old.sum(1)
    peer._metrics["eval"].clear()
    peers_loss = peer.compute_loss(peer.model, inputs)
    groups = with_values(with_values(groups, old, "old"), old, "sampled")
    models = our_models("llama", peer.model)
    mine, metrics = our_loss(models, spec, groups)
    assert_same_gradients(models, mine, peer.model, peers_loss)
    region = peer._metrics["eval"]["clip_ratio/region_mean"][0]
    assert 0.05 < region < 0.95
    assert metrics["clip_fraction"] == pytest.approx(region, rel=1e-5)


def test_a_wrong_clip_or_denominator_would_be_noticed(peers: dict[str, Any], tmp_path: Path) -> None:
    peer, groups = peers["grpo"], make_experience()
    models = our_models("llama", peer.model)
    inputs = peers_inputs(groups)
    old = moved(peers_logps(peer, inputs), 0.4, 1)
    groups = with_values(with_values(groups, old, "old"), old, "sampled")
    losses = set()
    for change in (
        {},
        {"clip_low": 0.21},
        {"clip_high": 0.21},
        {"type": "dr_grpo"},
        {"type": "dapo", "clip_high": 0.2},
    ):
        spec = spec_of(
            "grpo", loss={"type": "grpo", **change}, adapter=LORA, update=UPDATE, rollout={"max_new_tokens": MAX_NEW}
        )
        losses.add(round(our_loss(models, spec, groups)[0].item(), 6))
    assert len(losses) == 5
