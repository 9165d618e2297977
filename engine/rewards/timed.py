"""Judges by checkers that need a timer, outside of a job: when rows are sealed and read. Imports no torch."""

from __future__ import annotations

import atexit
import threading
import time

from posttrain.engine.checkers import Target
from posttrain.engine.rewards.base import Answer, Scored
from posttrain.engine.rewards.process import RewardProcess
from posttrain.engine.spec import CheckerReward

IDLE_S = 30.0


class TimedJudge:
    """One process for all threads, started when it is needed and ended when it has been idle for `idle_s`."""

    def __init__(self, idle_s: float = IDLE_S) -> None:
        self._lock = threading.Lock()
        self._rewards: RewardProcess | None = None
        self._idle_s = idle_s
        self._used_s = 0.0

    def judge(self, checker: str, answer: str, target: Target) -> Scored:
        """The part `checker`, 1 or 0, or why there is none."""
        with self._lock:
            if self._rewards is None:
                self._rewards = RewardProcess([CheckerReward()])
                threading.Thread(target=self._watch, args=(self._rewards,), daemon=True).start()
            scored = self._rewards.score(Answer(answer, 0, 0, False, checker, target))
            self._used_s = time.monotonic()
            return scored

    def close(self) -> None:
        with self._lock:
            if self._rewards is not None:
                self._rewards.close()
            self._rewards = None

    def _watch(self, mine: RewardProcess) -> None:
        while True:
            time.sleep(self._idle_s)
            with self._lock:
                if self._rewards is not mine:
                    return
                if time.monotonic() - self._used_s >= self._idle_s:
                    mine.close()
                    self._rewards = None
                    return


TIMED = TimedJudge()
atexit.register(TIMED.close)
