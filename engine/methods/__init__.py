"""Techniques, one file each. `METHODS` maps a spec's kind to its class; there is no other registration."""

from typing import Any

from posttrain.engine.methods.base import Method, Metrics, Models, OnPolicyMethod, Window
from posttrain.engine.methods.dpo import DpoMethod
from posttrain.engine.methods.grpo import GrpoMethod
from posttrain.engine.methods.ift import IftMethod
from posttrain.engine.methods.kto import KtoMethod
from posttrain.engine.methods.ppo import PpoMethod
from posttrain.engine.methods.reward import RewardMethod
from posttrain.engine.methods.sft import SftMethod
from posttrain.engine.methods.tool_use import ToolUseMethod
from posttrain.engine.spec import DpoSpec, KtoLoss, TrainSpec

METHODS: dict[str, type[Any]] = {
    "ift": IftMethod,
    "sft": SftMethod,
    "tool_use": ToolUseMethod,
    "dpo": DpoMethod,
    "dpo/kto": KtoMethod,
    "reward": RewardMethod,
    "grpo": GrpoMethod,
    "ppo": PpoMethod,
}


def method_of(spec: TrainSpec) -> Method:
    """The technique of a spec: by its kind, and of dpo by whether its rows are pairs."""
    is_unpaired = isinstance(spec, DpoSpec) and isinstance(spec.loss, KtoLoss)
    method: Method = METHODS["dpo/kto" if is_unpaired else spec.kind](spec)
    return method


__all__ = ["METHODS", "Method", "Metrics", "Models", "OnPolicyMethod", "SftMethod", "Window", "method_of"]
