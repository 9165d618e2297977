"""How many examples a paired comparison needs, and what so many can show. Pure functions; imports no torch.

Normal approximation with the variance of a paired difference d at a share of flips psi, psi - d^2 (Connor, Biometrics
43:207, 1987), times the design effect of clusters. `posttrain.evals.operating` has the chances of the exact rule.
"""

from __future__ import annotations

import math

from scipy.special import ndtri

from posttrain.evals.stats import ALPHA, POWER, UndefinedError


def examples_needed(
    discordance: float,
    margin: float,
    difference: float = 0.0,
    effect: float = 1.0,
    power: float = POWER,
    alpha: float = ALPHA,
) -> int:
    """Examples for a non-inferiority test at the given true difference and share of flips (normal approximation).

    An improvement by more than `by` is the margin -by.

    Raises:
        UndefinedError: at or below -margin no number of examples proves non-inferiority.
    """
    if difference + margin <= 0:
        raise UndefinedError("a true difference at or below -margin cannot be proven non-inferior")
    variance = max(discordance - difference**2, 0.0)
    z = _quantiles(alpha, power)
    return max(math.ceil(effect * z * z * variance / (difference + margin) ** 2), 1)


def detectable_margin(
    n: int,
    discordance: float,
    difference: float = 0.0,
    effect: float = 1.0,
    power: float = POWER,
    alpha: float = ALPHA,
) -> float:
    """The smallest margin at which `n` examples prove a model of this true difference not inferior, with this power.

    Raises:
        UndefinedError: no examples.
    """
    _require(n)
    variance = max(discordance - difference**2, 0.0)
    return _quantiles(alpha, power) * math.sqrt(effect * variance / n) - difference


def detectable_difference(
    n: int, discordance: float, effect: float = 1.0, power: float = POWER, alpha: float = ALPHA
) -> float:
    """The smallest true improvement that `n` examples prove to be above 0, with this power.

    It solves d = z sqrt(effect (psi - d^2) / n). More than the share of flips cannot be gained: a result of
    `discordance` means that all flips would have to be gains.

    Raises:
        UndefinedError: no examples.
    """
    _require(n)
    z = _quantiles(alpha, power)
    return min(z * math.sqrt(effect * discordance / (n + z * z * effect)), discordance)


def _quantiles(alpha: float, power: float) -> float:
    return float(ndtri(1 - alpha)) + float(ndtri(power))


def _require(n: int) -> None:
    if n < 1:
        raise UndefinedError("no examples")
