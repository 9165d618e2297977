"""Options of losses on preferences, a class for each; `losses.py` has the formulas. Nothing here imports torch."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from posttrain.engine.options import Option, Positive


class PairLossOptions(Option):
    """Base of losses on answers; `needs_reference` and `is_per_token` say what a loss computes with."""

    needs_reference: ClassVar[bool] = True
    is_per_token: ClassVar[bool] = False


class DpoSigmoidLoss(PairLossOptions):
    """DPO, arXiv:2305.18290."""

    type: Literal["sigmoid"] = "sigmoid"
    beta: Positive = Field(default=0.1, description="how closely the policy is held to the reference")


class DpoHingeLoss(PairLossOptions):
    """SLiC's hinge, arXiv:2305.10425."""

    type: Literal["hinge"] = "hinge"
    beta: Positive = Field(default=0.1, description="1 / beta is the margin in log-probability")


class DpoIpoLoss(PairLossOptions):
    """IPO, arXiv:2310.12036, per token."""

    is_per_token: ClassVar[bool] = True
    type: Literal["ipo"] = "ipo"
    beta: Positive = Field(default=0.1, description="1 / (2 beta) is the margin per token that is aimed at")


class DpoRobustLoss(PairLossOptions):
    """Robust DPO, arXiv:2403.00409."""

    type: Literal["robust"] = "robust"
    beta: Positive = Field(default=0.1, description="how closely the policy is held to the reference")
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = Field(
        default=0.1, description="share of pairs whose labels are believed to be flipped"
    )


class DpoSigmoidNormLoss(PairLossOptions):
    """Length-normalised DPO, arXiv:2411.15124."""

    is_per_token: ClassVar[bool] = True
    type: Literal["sigmoid_norm"] = "sigmoid_norm"
    beta: Positive = Field(default=5.0, description="as in sigmoid, but of log-probabilities per token")


class SimpoLoss(PairLossOptions):
    """SimPO, arXiv:2405.14734; no reference."""

    needs_reference: ClassVar[bool] = False
    is_per_token: ClassVar[bool] = True
    type: Literal["simpo"] = "simpo"
    beta: Positive = Field(default=2.0, description="scale of the log-probability per token")
    margin: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(default=1.0, description="the paper's gamma")


class OrpoLoss(PairLossOptions):
    """ORPO, arXiv:2403.07691; no reference. Includes supervised fine-tuning on the chosen answers."""

    needs_reference: ClassVar[bool] = False
    is_per_token: ClassVar[bool] = True
    type: Literal["orpo"] = "orpo"
    beta: Positive = Field(default=0.1, description="weight of the odds-ratio term, the paper's lambda")


class KtoLoss(PairLossOptions):
    """KTO, arXiv:2402.01306, on rows of format unpaired."""

    type: Literal["kto"] = "kto"
    beta: Positive = Field(default=0.1, description="how closely the policy is held to the reference")
    desirable_weight: Positive = Field(default=1.0, description="weight of rows labelled true")
    undesirable_weight: Positive = Field(
        default=1.0, description="weight of rows labelled false; balance both when one kind is rare"
    )


PairLoss = DpoSigmoidLoss | DpoHingeLoss | DpoIpoLoss | DpoRobustLoss | DpoSigmoidNormLoss | SimpoLoss | OrpoLoss
DpoLoss = Annotated[PairLoss | KtoLoss, Field(discriminator="type")]
