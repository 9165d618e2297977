"""Python functions as rewards, of modules that the operator of the server allows. Imports no torch.

The list of modules is the server's (`posttrain serve --reward-module`), none by default, and a job names a function of
one of them: `module:function`. What is allowed is trusted: it runs in the process of the rewards with the worker's
rights, and can read and write whatever the worker can. That process keeps a function that raises, hangs, crashes or
returns no number from costing more than its own answer; it is no sandbox. A function is called as

    function(prompt=TEXT, completion=TEXT, target={...}) -> float

with the prompt as the model read it (special tokens included), the answer without them, and the row's target. For
resumed runs to be exact it has to return the same for the same.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from posttrain.engine.errors import SpecError
from posttrain.engine.reward_options import PythonReward, RewardOptions
from posttrain.engine.rewards.base import Answer


def not_allowed(options: Sequence[RewardOptions], modules: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Places in the spec, and why: parts whose module is not among those that are allowed."""
    for index, option in enumerate(options):
        if isinstance(option, PythonReward) and option.module not in modules:
            allowed = ", ".join(modules) or "none"
            yield f"rewards[{index}].function", f"the server does not allow module {option.module} (allowed: {allowed})"


def check_allowed(options: Sequence[RewardOptions], modules: Sequence[str]) -> None:
    """Raises SpecError for the first part that is not allowed."""
    for place, problem in not_allowed(options, modules):
        raise SpecError(f"{place}: {problem}", hint="posttrain serve --reward-module NAME allows one")


def python_reward(option: PythonReward, answer: Answer) -> float:
    """What the function says. Raises whatever it raises, and what `function_of` does."""
    value = function_of(option.function)(prompt=answer.prompt, completion=answer.text, target=dict(answer.target))
    if not isinstance(value, float | int) and hasattr(value, "item"):
        value = value.item()  # of numpy or torch
    if not isinstance(value, float | int):
        raise TypeError(f"{option.function} returned {type(value).__name__}, not a number")
    return float(value)


@functools.cache
def function_of(name: str) -> Callable[..., Any]:
    """Imports the module, in the process of the rewards only.

    Raises:
        TypeError: there is no function of that name which the module defines itself; and whatever the import raises.
    """
    module, _, attribute = name.partition(":")
    found = getattr(importlib.import_module(module), attribute, None)
    # A module's own functions, not all that it has imported: `os.system` of a module that imports it is not allowed.
    if not callable(found) or getattr(found, "__module__", "") != module:
        raise TypeError(f"{module} defines no function {attribute}")
    return found  # type: ignore[no-any-return]
