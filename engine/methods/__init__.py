"""Techniques, one file each. `METHODS` maps a spec's kind to its class; there is no other registration."""

from posttrain.engine.methods.base import Method, Metrics, Models, Window
from posttrain.engine.methods.ift import IftMethod
from posttrain.engine.methods.sft import SftMethod

METHODS: dict[str, type[Method]] = {"ift": IftMethod, "sft": SftMethod}

__all__ = ["METHODS", "IftMethod", "Method", "Metrics", "Models", "SftMethod", "Window"]
