"""Contamination: questions of suites found in training data, by word n-grams, with the matches to read.

`words` says what a word is, `index` holds the suites' questions, `scan` reads a dataset's rows against them. Pure;
imports no torch.
"""

from __future__ import annotations

from posttrain.evals.contamination.index import QuestionIndex
from posttrain.evals.contamination.scan import Match, Report, overlap, scan

__all__ = ["Match", "QuestionIndex", "Report", "overlap", "scan"]
