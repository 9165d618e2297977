"""The numbers of a rollout of ppo, each token's and those that are told, against scalar loops over the model's own
padded forward: which model says what, of which token, at which temperature, and what becomes of it.

What answers and what rewards is given, not sampled: completions of several lengths, one without a stop token, one
without a reward.
"""

from __future__ import annotations

import copy
import math
import statistics
from array import array
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from posttrain.engine.data.encoded import PromptRow
from posttrain.engine.experience import Experience
from posttrain.engine.methods.base import never
from posttrain.engine.methods.on_policy import Judged
from posttrain.engine.methods.ppo import PpoMethod
from posttrain.engine.models import LanguageModel
from posttrain.engine.rewards import Scored
from posttrain.engine.rollout import Completion
from tests.engine.pairs import make_experience
from tests.engine.test_ppo_losses import TEMPERATURE, logps_of, make_models, number, padded_hidden, ppo_spec

REWARDS = [1.0, -0.5, 2.0, 0.25, 3.0, -1.0, 0.5, 0.75]
UNKNOWN, CUT = 1, 2  # places of the completion without a reward, and of the one without a stop token
COEFFICIENT, GAMMA, LAM, CLIP, PENALTY, TARGET = 0.3, 0.9, 0.7, 1.0, 0.75, 0.01
NAN = math.nan


class Given(PpoMethod):
    """Has its answers and their rewards before it is asked."""

    judged: list[list[Judged]]

    def _rolled_out(self, *_: Any) -> tuple[list[list[Judged]], dict[str, float]]:
        return self.judged, {}

    def _question(self, row: PromptRow) -> str:
        return "q"

    def _text(self, ids: Sequence[int]) -> str:
        return "a"


def judged_of(groups: Sequence[Experience]) -> list[list[Judged]]:
    found, place = list[list[Judged]](), 0
    for group in groups:
        found.append([])
        for branch in group.branches:
            logps = tuple(-0.1 * i for i in range(len(branch)))
            completion = Completion(tuple(branch.ids), "length" if place == CUT else "stop", logps, False, logps)
            failure = "checker: broken" if place == UNKNOWN else ""
            found[-1].append(Judged(completion, Scored(failure=failure), NAN if failure else REWARDS[place]))
            place += 1
    return found


def known_of(groups: Sequence[Experience]) -> list[Experience]:
    """Without the completion that has no reward."""
    first = groups[0]
    return [replace(first, branches=first.branches[:UNKNOWN] + first.branches[UNKNOWN + 1 :]), *groups[1:]]


def divergence(policy: float, reference: float, kind: str) -> float:
    ratio = math.exp(reference - policy)
    return {"k1": policy - reference, "k2": (policy - reference) ** 2 / 2, "k3": ratio - 1 - math.log(ratio)}[kind]


def same(found: array[float], expected: Sequence[float]) -> bool:
    return list(found) == pytest.approx(list(expected), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize(("adapter", "kind"), [("lora", "k1"), ("lora", "k3"), ("full", "k2")])
@torch.no_grad()
def test_a_rollouts_numbers_equal_scalar_loops(adapter: str, kind: str) -> None:
    models, groups = make_models(adapter), make_experience(seed=3)[:2]
    if adapter == "full":
        frozen = copy.deepcopy(models.policy.module)
        for parameter in frozen.parameters():
            parameter.mul_(1.1)
        models = replace(models, frozen=LanguageModel.of(frozen))
    assert len({len(branch) for group in groups for branch in group.branches}) > 4
    spec = ppo_spec(
        kl={"type": "adaptive", "target": TARGET, "estimator": kind, "coefficient": 0.05},
        advantage={"gamma": GAMMA, "lam": LAM},
        score={"whiten": True, "clip": CLIP, "missing_stop_penalty": PENALTY},
        rollout={"temperature": TEMPERATURE, "num_samples": 2},
    )
    method = Given(spec)
    method.judged = judged_of(groups)
    method.load_state_dict({"kl_coefficient": COEFFICIENT, "is_stopped": True})
    made = method.rollout([PromptRow(group.prefix, "none", "{}") for group in groups], models, (0, 0), never)
    found = [one for group in made.groups for one in group.trained]

    known = known_of(groups)
    assert [group.branches for group in made.groups] == [group.branches for group in known]
    assert [group.num_tokens for group in made.groups] == [sum(map(len, group.branches)) for group in known]
    old = logps_of(models.policy, known)
    with models.reference() as reference:
        base = logps_of(reference, known)
    value = models.value
    assert value is not None
    with value.in_use():
        states = padded_hidden(value.model, known)
        values = [[number((value.head.weight[0] * s).sum() + value.head.bias[0]) for s in each] for each in states]
    rewards = [reward for place, reward in enumerate(REWARDS) if place != UNKNOWN]
    mean, deviation = statistics.mean(rewards), statistics.stdev(rewards)
    scores = [max(-CLIP, min(CLIP, (reward - mean) / deviation)) for reward in rewards]
    scores[CUT - 1] -= PENALTY
    divergences = [[divergence(p, q, kind) for p, q in zip(*pair, strict=True)] for pair in zip(old, base, strict=True)]
    advantages = list[list[float]]()
    for score, costs, states_values in zip(scores, divergences, values, strict=True):
        last = len(costs) - 1
        delta = [
            -COEFFICIENT * costs[t] + (score if t == last else GAMMA * states_values[t + 1]) - states_values[t]
            for t in range(last + 1)
        ]
        advantages.append(
            [sum((GAMMA * LAM) ** i * delta[t + i] for i in range(last + 1 - t)) for t in range(last + 1)]
        )
    flat = [advantage for each in advantages for advantage in each]
    mean, deviation = statistics.mean(flat), statistics.stdev(flat)
    targets = [[a + v for a, v in zip(*pair, strict=True)] for pair in zip(advantages, values, strict=True)]

    for i, one in enumerate(found):
        assert same(one.sampled, [-0.1 * t for t in range(len(old[i]))])
        assert same(one.old, old[i])
        assert same(one.reference, base[i])
        assert same(one.values, values[i])
        assert same(one.returns, targets[i])
        assert same(one.advantages, [(advantage - mean) / deviation for advantage in advantages[i]])
    away = [sum(p) - sum(q) for p, q in zip(old, base, strict=True)]
    flat_values, flat_targets = [v for each in values for v in each], [r for each in targets for r in each]
    errors = [r - v for r, v in zip(flat_targets, flat_values, strict=True)]
    assert made.metrics == pytest.approx(
        {
            "kl_coefficient": COEFFICIENT,
            "score": statistics.mean(scores),
            "value": statistics.mean(flat_values),
            "return": statistics.mean(flat_targets),
            "explained_variance": 1 - statistics.pvariance(errors) / statistics.pvariance(flat_targets),
            "kl": statistics.mean(cost for each in divergences for cost in each),
            "kl_completion": statistics.mean(away),
        },
        rel=1e-4,
        abs=1e-5,
    )
    assert abs(statistics.mean(away)) > 10 * TARGET
    error = 0.2 if statistics.mean(away) > 0 else -0.2
    assert method.state_dict() == {
        "kl_coefficient": pytest.approx(COEFFICIENT * (1 + 0.1 * error)),
        "is_stopped": False,
    }
    assert ["score" in sample for sample in made.samples] == [place != UNKNOWN for place in range(len(REWARDS))]
    told = [sample for sample in made.samples if "score" in sample]
    for i, sample in enumerate(told):
        expected = {"score": scores[i], "value": values[i][0], "kl": away[i]}
        assert {name: sample[name] for name in expected} == pytest.approx(expected, rel=1e-4, abs=1e-5)
