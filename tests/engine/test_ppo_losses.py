"""Policy and value losses of ppo, and their gradients, equal slow scalar loops written from the papers over the model's
own padded forward: prompts repeated, no packing, eager attention.

LoRA's B and the value's head are random: at zero policy, value backbone and base are one model. Old log-probabilities
and values are moved at random, so that ratios and values leave their ranges on both sides.
"""

from __future__ import annotations

import copy
import math
from array import array
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from posttrain.engine import attention
from posttrain.engine.adapters import add_lora
from posttrain.engine.data.packing import split
from posttrain.engine.experience import Experience, Trained, Values
from posttrain.engine.methods import Models, method_of
from posttrain.engine.methods.ppo import PpoMethod
from posttrain.engine.models import LanguageModel
from posttrain.engine.spec import LoraAdapter, PpoSpec
from posttrain.engine.value import ValueModel
from tests.engine.pairs import make_experience, padded, sequences_of, spec_of
from tests.engine.tiny import tiny_module

LOSS = {"clip_low": 0.2, "clip_high": 0.3, "dual_clip": 1.5, "entropy_weight": 0.02}
TEMPERATURE = 0.8


def ppo_spec(**options: Any) -> PpoSpec:
    given = {"loss": LOSS, "rollout": {"temperature": TEMPERATURE}, "value": {"clip": 0.3}, **options}
    spec = spec_of("ppo", **given)
    assert isinstance(spec, PpoSpec)
    return spec


def make_models(kind: str, name: str = "llama") -> Models:
    module = tiny_module(name)
    peft = add_lora(module, LoraAdapter(rank=3, alpha=6.0), "b@1") if kind == "lora" else None
    policy = LanguageModel.of(module)
    value = ValueModel.beside(policy, peft)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for _, parameter in [*(policy.trainable() if kind == "lora" else []), *value.parameters]:
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return Models(policy, peft, value=value)


def padded_hidden(model: LanguageModel, groups: Sequence[Experience]) -> list[list[Tensor]]:
    """Of each completion the hidden states [D] from which its tokens are chosen, by the model's own forward."""
    sequences = sequences_of(groups)
    ids_SL, seen_SL, _ = padded(sequences)
    model.module.set_attn_implementation("eager")
    output = model.module(input_ids=ids_SL, attention_mask=seen_SL, use_cache=False, output_hidden_states=True)
    model.module.set_attn_implementation(attention.NAME)
    return [
        [output.hidden_states[-1][i, place - 1] for place, is_target in enumerate(mask) if is_target]
        for i, (_, mask) in enumerate(sequences)
    ]


def random_values(models: Models, seed: int = 0) -> list[Experience]:
    """Experience whose old log-probabilities and values are those of the models, moved."""
    groups, generator = make_experience(seed), torch.Generator().manual_seed(seed)
    method = PpoMethod(ppo_spec())
    value = models.value
    assert value is not None
    with torch.no_grad():
        groups = method._with_logps(groups, models.policy, "old")
        with value.in_use():
            groups = method._with(groups, "values", value.model, value.values)
    moves: list[tuple[Values, Values, float]] = [
        ("sampled", "old", 0.05), ("returns", "values", 0.8), ("old", "old", 0.5), ("values", "values", 0.5)
    ]  # fmt: skip
    for target, source, scale in moves:
        groups = [
            replace(group, trained=tuple(moved(one, target, source, scale, generator) for one in group.trained))
            for group in groups
        ]
    return groups


def moved(one: Trained, target: Values, source: Values, scale: float, generator: torch.Generator) -> Trained:
    numbers = torch.tensor(getattr(one, source), dtype=torch.float64)
    noise = scale * torch.randn(numbers.shape, generator=generator, dtype=torch.float64)
    return replace(one, **{target: array("d", (numbers + noise).tolist())})


def number(value: Tensor) -> float:
    return float(value.detach())


def logps_of(model: LanguageModel, groups: Sequence[Experience]) -> list[list[float]]:
    """Of each completion's tokens."""
    found = []
    ids = [branch.ids for group in groups for branch in group.branches]
    for tokens, states in zip(ids, padded_hidden(model, groups), strict=True):
        rows = [torch.log_softmax(model.logits(state[None])[0] / TEMPERATURE, dim=-1) for state in states]
        found.append([number(row[token]) for row, token in zip(rows, tokens, strict=True)])
    return found


def slow_losses(models: Models, groups: Sequence[Experience]) -> tuple[Tensor, Tensor]:
    """Both losses, a token at a time."""
    value = models.value
    assert value is not None
    flat = [one for group in groups for one in group.trained]
    tokens = [list(branch.ids) for group in groups for branch in group.branches]
    num = sum(map(len, tokens))
    policy_loss = value_loss = torch.zeros(())
    hidden = padded_hidden(models.policy, groups)
    for one, ids, states in zip(flat, tokens, hidden, strict=True):
        for t, (token, state) in enumerate(zip(ids, states, strict=True)):
            logp_V = torch.log_softmax(models.policy.logits(state[None])[0] / TEMPERATURE, dim=-1)
            entropy = -(logp_V.exp() * logp_V).sum()
            ratio, advantage = torch.exp(logp_V[token] - one.old[t]), one.advantages[t]
            held = ratio
            if number(ratio) < 0.8:
                held = torch.tensor(0.8)
            elif number(ratio) > 1.3:
                held = torch.tensor(1.3)
            objective = min(ratio * advantage, held * advantage, key=number)  # arXiv:1707.06347 eq. 7
            if advantage < 0:
                objective = max(objective, torch.tensor(1.5 * advantage), key=number)  # arXiv:1912.09729 eq. 5
            policy_loss = policy_loss - (objective + 0.02 * entropy) / num
    with value.in_use():
        for one, states in zip(flat, padded_hidden(value.model, groups), strict=True):
            for t, state in enumerate(states):
                found = (value.head.weight[0] * state).sum() + value.head.bias[0]
                low, high = one.values[t] - 0.3, one.values[t] + 0.3
                held = found if low <= number(found) <= high else torch.tensor(low if number(found) < low else high)
                errors = [(found - one.returns[t]) ** 2, (held - one.returns[t]) ** 2]
                value_loss = value_loss + max(errors, key=number) / 2 / num
    return policy_loss, value_loss


def gradients(models: Models, policy_loss: Tensor, value_loss: Tensor) -> dict[str, Tensor]:
    """By name, those of the value model with `v:` before it."""
    value = models.value
    assert value is not None
    found: dict[str, Tensor | None] = {}
    named = models.policy.trainable()
    grads = torch.autograd.grad(policy_loss, [parameter for _, parameter in named], allow_unused=True)
    found |= {name: gradient for (name, _), gradient in zip(named, grads, strict=True)}
    with value.in_use():
        grads = torch.autograd.grad(value_loss, [parameter for _, parameter in value.parameters], allow_unused=True)
    found |= {f"v:{name}": gradient for (name, _), gradient in zip(value.parameters, grads, strict=True)}
    return {name: gradient for name, gradient in found.items() if gradient is not None}


def our_losses(
    models: Models, groups: Sequence[Experience], micro_tokens: int = 10_000, spec: PpoSpec | None = None
) -> tuple[Tensor, Tensor, dict[str, float], dict[str, Tensor]]:
    """Policy's and value's loss, metrics and gradients, each pass differentiated when it is made."""
    given = spec or ppo_spec()
    method = method_of(
        given.model_copy(update={"batch": given.batch.model_copy(update={"micro_tokens": micro_tokens})})
    )
    value = models.value
    assert value is not None
    named = [*models.policy.trainable(), *((f"v:{name}", parameter) for name, parameter in value.parameters)]
    for _, parameter in named:
        parameter.grad = None
    models.policy.module.eval()
    window, totals, sums = method.window(groups, models), [torch.zeros(())] * 2, dict[str, float]()
    for micro in split(method.computed(groups), micro_tokens):
        for i, (share, metrics) in enumerate(method.losses(method.collate(micro, torch.device("cpu")), models, window)):
            share.backward()  # type: ignore[no-untyped-call]
            totals[i] = totals[i] + share.detach()
            for name, metric in metrics.items():
                sums[name] = sums.get(name, 0.0) + metric
    grads = {name: parameter.grad.clone() for name, parameter in named if parameter.grad is not None}
    return totals[0], totals[1], sums, grads


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 1e-5) -> None:
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        scale = float(gradient.abs().max())
        torch.testing.assert_close(found[name], gradient, rtol=tolerance, atol=tolerance * max(scale, 1e-6), msg=name)


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_losses_and_gradients_equal_slow_loops_from_the_papers(kind: str) -> None:
    models = make_models(kind)
    groups = random_values(models)
    policy_loss, value_loss, metrics, found = our_losses(models, groups)
    slow_policy, slow_value = slow_losses(models, groups)
    assert policy_loss.item() == pytest.approx(slow_policy.item(), rel=1e-5)
    assert value_loss.item() == pytest.approx(slow_value.item(), rel=1e-5)
    assert metrics["value_loss"] == pytest.approx(slow_value.item(), rel=1e-5)
    assert metrics["policy_loss"] - 0.02 * metrics["policy_entropy"] == pytest.approx(slow_policy.item(), rel=1e-5)
    for name in ("clip_fraction", "dual_clip_fraction", "value_clip_fraction"):
        assert 0.02 < metrics[name] < 0.9, f"{name}: nothing would be compared"
    expected = gradients(models, slow_policy, slow_value)
    assert {name.startswith("v:") for name in expected} == {True, False}
    assert_same(found, expected, 5e-5)


@torch.no_grad()
def test_what_is_told_of_a_step_equals_a_slow_loop() -> None:
    """A mean over its tokens each: how often which bound holds, and the divergence of the rollout's policy from the one
    that is trained, r - 1 - log r where the former has sampled."""
    models = make_models("lora")
    groups, value = random_values(models), models.value
    assert value is not None
    batch = method_of(ppo_spec()).collate(groups, torch.device("cpu"))
    with value.in_use():
        values = value.values(batch).tolist()
    told = [dict[str, float]() for _ in values]
    flat = [(one, t) for group in groups for one in group.trained for t in range(len(one.old))]
    logps = [logp for each in logps_of(models.policy, groups) for logp in each]
    for at, (one, t), logp, now in zip(told, flat, logps, values, strict=True):
        advantage, old, target, log_ratio = one.advantages[t], one.values[t], one.returns[t], logp - one.old[t]
        ratio = math.exp(log_ratio)
        at["approx_kl"] = ratio - 1 - log_ratio
        at["clip_fraction"] = (ratio > 1.3 and advantage > 0) or (ratio < 0.8 and advantage < 0)
        at["dual_clip_fraction"] = ratio > 1.5 and advantage < 0
        held = max(old - 0.3, min(old + 0.3, now))
        at["value_clip_fraction"] = (held - target) ** 2 > (now - target) ** 2
        at["logp_difference"] = abs(one.old[t] - one.sampled[t])
        at["logp_difference_share"] = at["logp_difference"] > 0.1
    whole, window = our_metrics(models, groups)
    assert window == len(told)
    for name in told[0]:
        expected = sum(at[name] for at in told) / len(told)
        assert expected > 0.02, f"{name}: nothing would be compared"
        assert whole[name] == pytest.approx(expected, rel=1e-4), name


def our_metrics(models: Models, groups: Sequence[Experience]) -> tuple[dict[str, float], int]:
    """Those of a step in one pass, and its tokens."""
    method, metrics = method_of(ppo_spec()), dict[str, float]()
    window = method.window(groups, models)
    for _, found in method.losses(method.collate(groups, torch.device("cpu")), models, window):
        metrics |= found
    return metrics, window.num_targets


@torch.no_grad()
def test_a_tokens_loss_weighs_what_the_trainer_says_of_it_by_what_the_rollout_said() -> None:
    """min(trainer's / rollout's probability, cap) times the policy's part; the entropy's is not weighed."""
    models, cap = make_models("lora"), 1.02
    groups = random_values(models)
    plain = {"clip_low": 0.2, "clip_high": 0.3}
    found = [
        number(our_loss(models, groups, ppo_spec(loss={**plain, "entropy_weight": weight}, update=update)))
        for weight, update in (
            (0.0, {"truncated_importance": cap}),
            (0.5, {"truncated_importance": cap}),
            (0.5, {}),
            (0, {}),
        )
    ]
    expected, flat = 0.0, [(one, t) for group in groups for one in group.trained for t in range(len(one.old))]
    weights = list[float]()
    for (one, t), logp in zip(flat, [logp for each in logps_of(models.policy, groups) for logp in each], strict=True):
        ratio, advantage = math.exp(logp - one.old[t]), one.advantages[t]
        weights.append(min(math.exp(one.old[t] - one.sampled[t]), cap))
        expected -= weights[-1] * min(ratio * advantage, max(0.8, min(1.3, ratio)) * advantage) / len(flat)
    assert cap in weights
    assert min(weights) < 0.9
    assert found[0] == pytest.approx(expected, rel=1e-4)
    assert found[0] != pytest.approx(found[3], rel=1e-3)
    assert found[1] - found[0] == pytest.approx(found[2] - found[3], rel=1e-4)


def our_loss(models: Models, groups: Sequence[Experience], spec: PpoSpec) -> Tensor:
    method = method_of(spec)
    return method.loss(method.collate(groups, torch.device("cpu")), models, method.window(groups, models))[0]


@pytest.mark.parametrize(("kind", "name"), [("lora", "llama"), ("full", "gemma2")])
def test_packing_and_the_split_into_passes_change_nothing(kind: str, name: str) -> None:
    """Prompts computed once for all their completions, or for each completion anew."""
    models = make_models(kind, name)
    groups = random_values(models, seed=1)
    whole = our_losses(models, groups)
    for micro_tokens in (40, 1):
        parts = our_losses(models, groups, micro_tokens)
        for i in range(2):
            assert parts[i].item() == pytest.approx(whole[i].item(), rel=1e-5)
        assert parts[2] == pytest.approx(whole[2], rel=1e-5, abs=1e-7)
        assert_same(parts[3], whole[3], 2e-5)


def changed(groups: Sequence[Experience], name: Values, change: Any) -> list[Experience]:
    return [
        replace(
            group,
            trained=tuple(
                replace(one, **{name: array("d", change(list(getattr(one, name))))}) for one in group.trained
            ),
        )
        for group in groups
    ]


MUTATIONS: dict[str, Any] = {
    "sign of the advantage": lambda groups: changed(groups, "advantages", lambda a: [-x for x in a]),
    "old log-probabilities shifted": lambda groups: changed(groups, "old", lambda a: [*a[1:], a[0]]),
    "returns shifted": lambda groups: changed(groups, "returns", lambda a: [*a[1:], a[0]]),
    "values shifted": lambda groups: changed(groups, "values", lambda a: [a[-1], *a[:-1]]),
    "the last token of each completion masked": lambda groups: [
        replace(
            group,
            branches=tuple(
                replace(branch, is_target=branch.is_target[:-1] + b"\0") if len(branch) > 1 else branch
                for branch in group.branches
            ),
            trained=tuple(
                Trained(*(array("d", (getattr(one, n) or array("d"))[: max(1, len(one.old) - 1)]) for n in COLUMNS))
                for one in group.trained
            ),
        )
        for group in groups
    ],
    "a denominator of completions": lambda groups: [replace(group, num_tokens=len(group.branches)) for group in groups],
}
COLUMNS = ("sampled", "advantages", "old", "reference", "values", "returns")


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_wrong_number_would_be_noticed(name: str) -> None:
    models = make_models("lora")
    groups = random_values(models)
    right, wrong = our_losses(models, groups)[:2], our_losses(models, MUTATIONS[name](groups))[:2]
    assert any(abs(a.item() - b.item()) > 1e-3 * abs(a.item()) for a, b in zip(right, wrong, strict=True))


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_policy_and_value_share_no_trained_weight(kind: str) -> None:
    """The value's loss moves nothing of the policy, the policy's nothing of the value; and the policy computes the same
    whatever the value model's weights are."""
    models = make_models(kind)
    groups, method = random_values(models), method_of(ppo_spec())
    value, window = models.value, method.window(groups, models)
    assert value is not None
    batch = method.collate(groups, torch.device("cpu"))
    of_policy = {id(parameter) for _, parameter in models.policy.trainable()}
    of_value = {id(parameter) for _, parameter in value.parameters}
    assert of_policy
    assert not of_policy & of_value
    for own, losses in (
        (of_policy, method.losses(batch, models, window)),
        (of_value, method.losses(batch, models, window)),
    ):
        every = [*models.policy.module.parameters(), *value.model.module.parameters(), *value.head.parameters()]
        for parameter in every:
            parameter.grad = None
        for i, (share, _) in enumerate(losses):
            if (i == 0) == (own is of_policy):
                share.backward()  # type: ignore[no-untyped-call]
        moved_ones = {id(parameter) for parameter in every if parameter.grad is not None}
        assert moved_ones
        assert moved_ones <= own
    before, _ = method.loss(batch, models, window)
    with torch.no_grad():
        for _, parameter in value.parameters:
            parameter.add_(1.0)
    after, _ = method.loss(batch, models, window)
    assert torch.equal(before, after)


def test_a_new_value_model_says_nothing_and_leaves_no_trace() -> None:
    module = tiny_module("llama")
    before = copy.deepcopy(module.state_dict())
    peft = add_lora(module, LoraAdapter(rank=3), "b@1")
    policy = LanguageModel.of(module)
    names = [name for name, _ in policy.trainable()]
    value = ValueModel.beside(policy, peft)
    assert [name for name, _ in policy.trainable()] == names
    batch = method_of(ppo_spec()).collate(make_experience(), torch.device("cpu"))
    with value.in_use():
        assert value.values(batch).tolist() == [0.0] * batch.num_targets
    value.remove(peft)
    assert [name for name, _ in policy.trainable()] == names
    assert not any("value" in name for name in module.state_dict())
    assert len(before) < len(module.state_dict())


def test_nothing_of_the_value_model_is_trained_by_a_head_it_does_not_use() -> None:
    """A language model's head of its own is frozen in the copy."""
    policy = LanguageModel.of(tiny_module("gptneox"))
    value = ValueModel.beside(policy, None)
    assert value.model.module is not policy.module
    assert not any(name == "embed_out.weight" for name, _ in value.parameters)
    assert {name for name, _ in value.parameters} >= {"value_weight", "value_bias"}
