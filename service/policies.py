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
            service cannot give: no second run is evaluated yet.
    """
    if not re.fullmatch(NAME_PATTERN, name):
        raise PolicyError(f"{name[:80]!r} is not a policy's name")
    own = folder / f"{name}.yaml"
    policy = load_policy(own if own.is_file() else name)
    if policy.name != name:
        raise PolicyError(f"{own.name} holds a policy named {policy.name!r}")
    unknown = [name for name in policy.asks_for if name == "noise_floor"]
    if unknown:
        # A gate under such a policy could never pass; better said before anything is trained than after.
        raise PolicyError(f"{own.name}: {', '.join(unknown)}: the service cannot give a gate what this asks for")
    return policy
