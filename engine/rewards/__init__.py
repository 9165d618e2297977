"""Rewards of completions: parts, each a pure function of one answer, and their weighted sum.

The parts run in a process of their own (`process.py`): one that raises, returns NaN, hangs or dies costs its own
completion the reward, and nothing else. Such a completion has no total: it is counted, and neither its group's
statistics nor the loss know of it. It never scores 0. Reward models are the exception: they score beside the trained
model (`model.py`, which imports torch; nothing else here does).
"""

from posttrain.engine.rewards.base import Answer, Scored, joined, names_of, total_of
from posttrain.engine.rewards.process import RewardProcess

__all__ = ["Answer", "RewardProcess", "Scored", "joined", "names_of", "total_of"]
