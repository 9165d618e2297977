"""Rewards of completions: parts, each a pure function of one answer, and their weighted sum.

The parts run in a process of their own (`process.py`): one that raises, returns NaN, hangs or dies costs its own
completion the reward, and nothing else. Such a completion has no total: it is counted, and neither its group's
statistics nor the loss know of it. It never scores 0.

Imports no torch.
"""

from posttrain.engine.rewards.base import Answer, Scored, names_of, total_of
from posttrain.engine.rewards.process import RewardProcess

__all__ = ["Answer", "RewardProcess", "Scored", "names_of", "total_of"]
