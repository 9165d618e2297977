"""Which policy a name stands for: an operator's own in HOME/policies/NAME.yaml, else the one that the package ships."""

from __future__ import annotations

import re
from pathlib import Path

from posttrain.engine.spec import NAME_PATTERN
from posttrain.evals.errors import PolicyError
from posttrain.evals.policy import Policy, load_policy


def policy_in_force(folder: Path, name: str) -> Policy:
    """The policy of this name as it is now.

    Raises:
        PolicyError: there is none, it cannot be used, the file's content has another name, or it asks for what this
            service cannot give: it searches no training data yet.
    """
    if not re.fullmatch(NAME_PATTERN, name):
        raise PolicyError(f"{name[:80]!r} is not a policy's name")
    own = folder / f"{name}.yaml"
    policy = load_policy(own if own.is_file() else name)
    if policy.name != name:
        raise PolicyError(f"{own.name} holds a policy named {policy.name!r}")
    if policy.contamination is not None:
        raise PolicyError(
            f"{name}: contamination: this server searches no training data; `posttrain datasets check` searches a file"
        )
    return policy
