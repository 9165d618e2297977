"""Options of techniques that learn from their own answers: how these are made, how they become updates, and what the
losses are; `policy_losses.py` and `returns.py` have the formulas. Nothing here imports torch.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from posttrain.engine.options import MIN_TEMPERATURE, Count, Fraction, OptimizerOptions, Option, Positive

NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class CompletionOptions(Option):
    """How the trained model answers the prompts. Every completion draws from a stream of its own, a function of the
    seed, the rollout, the prompt's place in it and the completion's number: neighbours change nothing."""

    num_completions: Annotated[int, Field(ge=1, le=4096)] = Field(default=1, description="completions of each prompt")
    max_new_tokens: Count = Field(
        default=512, description="longest completion in tokens; batch.max_tokens bounds it with its prompt"
    )
    temperature: Annotated[float, Field(ge=MIN_TEMPERATURE, le=100)] = Field(
        default=1.0, description="divides the logits, in the rollout and in the loss"
    )
    top_p: Annotated[float, Field(gt=0, le=1)] = Field(default=1.0, description="nucleus; the loss knows nothing of it")
    top_k: Annotated[int, Field(ge=0, le=2**31 - 1)] = Field(default=0, description="most likely tokens; 0: all")
    min_p: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.0, description="least probability, as a share of the most likely token's"
    )
    batch_rows: Annotated[int, Field(ge=1, le=4096)] = Field(default=64, description="completions generated at a time")
    num_samples: Annotated[int, Field(ge=0, le=4096)] = Field(
        default=2, description="prompts of each rollout whose completions are kept for reading, in samples.jsonl"
    )


class RolloutOptions(CompletionOptions):
    """The same of completions that are compared in groups."""

    num_completions: Annotated[int, Field(ge=2, le=4096)] = Field(
        default=8, description="completions of each prompt, the group; of one alone every advantage would be 0"
    )
    max_resamples: Annotated[int, Field(ge=0, le=64)] = Field(
        default=0,
        description="how often groups with equal rewards are replaced by those of other prompts, drawn beside the "
        "epochs (dynamic sampling, arXiv:2503.14476); 0: never",
    )


class MinibatchOptions(Option):
    """How a rollout becomes optimiser steps: num_minibatches x num_epochs of them, batch.num_rows prompts in each."""

    num_minibatches: Annotated[int, Field(ge=1, le=4096)] = Field(
        default=1, description="batches of batch.num_rows prompts that are rolled out at a time"
    )
    num_epochs: Annotated[int, Field(ge=1, le=64)] = Field(default=1, description="passes over each rollout")
    truncated_importance: NonNegative = Field(
        default=0.0,
        description="tokens weigh trainer's / rollout's probability, at most this (Ionides 2008); 0: off",
    )
    max_logp_difference: Positive = Field(
        default=0.1, description="log-probabilities of rollout and trainer that differ by more are told as a warning"
    )


class UpdateOptions(MinibatchOptions):
    """The same of completions that are compared in groups."""

    mask_truncated: bool = Field(
        default=False, description="completions without an end count in their group but are not trained on"
    )


class OnPolicyOptimizerOptions(OptimizerOptions):
    learning_rate: Positive = Field(default=1e-6, description="peak; about ten times higher for LoRA")
    schedule: Literal["cosine", "linear", "constant"] = "constant"


# -- tools that run ----------------------------------------------------------------------------------------------------


Tool = Literal["calculator", "lookup", "python"]


def _safe_tools() -> list[Tool]:
    return ["calculator", "lookup"]


class NoEnvironment(Option):
    type: Literal["none"] = "none"


class ToolEnvironment(Option):
    """Calls that the model writes are run, and it goes on from what they give, for several turns; docs/rl.md."""

    type: Literal["tools"] = "tools"
    tools: list[Tool] = Field(
        default_factory=_safe_tools,
        min_length=1,
        description="which run; lookup reads the row's target.table, python only where the server allows it",
    )
    max_turns: Annotated[int, Field(ge=2, le=64)] = Field(
        default=4, description="turns of the model in one completion; calls of the last one do not run"
    )
    max_result_tokens: Annotated[int, Field(ge=8, le=65536)] = Field(
        default=128, description="of one call's answer; a longer one is cut, and says so"
    )
    on_bad_call: Literal["tell", "end"] = Field(
        default="tell", description="a call that cannot be read is answered by what is wrong with it, or is the end"
    )
    timeout_s: Annotated[float, Field(gt=0, le=600)] = Field(default=5.0, description="of one python snippet")

    @field_validator("tools")
    @classmethod
    def _each_once(cls, value: list[Tool]) -> list[Tool]:
        if len(set(value)) != len(value):
            raise ValueError("names a tool twice")
        return value


Environment = Annotated[NoEnvironment | ToolEnvironment, Field(discriminator="type")]


# -- losses on groups --------------------------------------------------------------------------------------------------


class PolicyLossOptions(Option):
    """Base of clipped policy losses: the ratio of new to old probability is held in [1 - clip_low, 1 + clip_high]."""

    clip_low: Annotated[float, Field(gt=0, lt=1)] = Field(default=0.2, description="below 1")
    clip_high: Positive = Field(default=0.2, description="above 1")


class GrpoLoss(PolicyLossOptions):
    """GRPO, arXiv:2402.03300: advantages in standard deviations of the group; mean over each completion's tokens."""

    type: Literal["grpo"] = "grpo"


class DrGrpoLoss(PolicyLossOptions):
    """Dr. GRPO, arXiv:2503.20783: advantages without the deviation; every token counts 1 / max_new_tokens."""

    type: Literal["dr_grpo"] = "dr_grpo"


class DapoLoss(PolicyLossOptions):
    """DAPO, arXiv:2503.14476: clips higher than lower; mean over all tokens of the step."""

    type: Literal["dapo"] = "dapo"
    clip_high: Positive = Field(default=0.28, description="above 1")


class GspoLoss(PolicyLossOptions):
    """GSPO, arXiv:2507.18071: one ratio for each completion, the geometric mean of its tokens'."""

    type: Literal["gspo"] = "gspo"
    clip_low: Annotated[float, Field(gt=0, lt=1)] = Field(default=3e-4, description="below 1")
    clip_high: Positive = Field(default=4e-4, description="above 1")


class RlooLoss(PolicyLossOptions):
    """RLOO, arXiv:2402.14740: the other completions' mean reward as baseline; one ratio for each completion, the
    product of its tokens'."""

    type: Literal["rloo"] = "rloo"


PolicyLoss = Annotated[GrpoLoss | DrGrpoLoss | DapoLoss | GspoLoss | RlooLoss, Field(discriminator="type")]


# -- PPO ---------------------------------------------------------------------------------------------------------------


class PpoUpdateOptions(MinibatchOptions):
    num_epochs: Annotated[int, Field(ge=1, le=64)] = Field(default=4, description="passes over each rollout")
    max_kl: NonNegative = Field(
        default=0.0,
        description="mean divergence per token from the policy of the rollout at which the rest of the rollout's "
        "updates are left out, the one that shows it included; 0: never",
    )


class PpoLossOptions(PolicyLossOptions):
    """PPO, arXiv:1707.06347."""

    dual_clip: NonNegative = Field(
        default=0.0,
        description="a token with a negative advantage costs at most this times it, above 1 (arXiv:1912.09729); 0: off",
    )
    entropy_weight: NonNegative = Field(default=0.0, description="of the policy's entropy, a bonus; 0: not computed")

    @field_validator("dual_clip")
    @classmethod
    def _above_one(cls, value: float) -> float:
        if 0 < value <= 1:
            raise ValueError("must be above 1, or 0 to be off: at 1 the ratio of a bad token would not count at all")
        return value


class KlOptions(Option):
    """Base of penalties for leaving the base: coefficient * divergence is taken from each token's reward."""

    coefficient: NonNegative = Field(default=0.05, description="weight of the divergence; 0: not computed")
    estimator: Literal["k1", "k2", "k3"] = Field(
        default="k1",
        description="of the divergence at a sampled token: log-ratio, half its square, or the low-variance one "
        "(Schulman 2020)",
    )


class FixedKl(KlOptions):
    type: Literal["fixed"] = "fixed"


class AdaptiveKl(KlOptions):
    """The coefficient follows the divergence, arXiv:1909.08593 section 2.2."""

    type: Literal["adaptive"] = "adaptive"
    coefficient: Positive = Field(default=0.05, description="weight of the divergence in the first rollout")
    target: Positive = Field(default=6.0, description="divergence that is aimed at, in nats per completion")
    gain: Annotated[float, Field(gt=0, lt=5, allow_inf_nan=False)] = Field(
        default=0.1, description="a rollout changes the coefficient by at most a fifth of this, as a share"
    )


KlPenalty = Annotated[FixedKl | AdaptiveKl, Field(discriminator="type")]


class ScoreOptions(Option):
    """What is done to a completion's reward before it becomes that of its last token, in this order."""

    whiten: bool = Field(default=False, description="mean 0 and deviation 1 over the rollout")
    clip: NonNegative = Field(default=0.0, description="to [-clip, clip]; 0: off")
    missing_stop_penalty: NonNegative = Field(
        default=0.0, description="taken from the reward of a completion without a stop token"
    )


class AdvantageOptions(Option):
    """Generalised advantage estimation, arXiv:1506.02438."""

    gamma: Annotated[float, Field(gt=0, le=1)] = Field(default=1.0, description="discount of rewards to come")
    lam: Fraction = Field(
        default=0.95,
        description="lambda: 1 trusts the rewards alone, 0 the next value; less is less variance and more bias",
    )
    whiten: bool = Field(default=True, description="mean 0 and deviation 1 over the tokens of the rollout")


class ValueOptions(Option):
    """The model that says what reward is still to come; its weights are its own."""

    learning_rate: Positive = Field(default=1e-5, description="peak; the rest is as in optimizer")
    clip: NonNegative = Field(
        default=0.2, description="how far a value may move from that of the rollout before its loss stops; 0: off"
    )
