"""One comparison: both sides in one process, step by step on the same rows, and each alone for its memory."""

from __future__ import annotations

import gc
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.ours import Ours
from benchmarks.peer import Peer
from benchmarks.workload import SIZES, SMOKE, Entry, Size, num_tokens, steps_of
from posttrain.engine.data.encoded import AnyRow
from posttrain.engine.products import products_per_s

SAME_LOSS = 1e-4
PEER = "TRL"

Tell = Callable[[str, float], None]


class UnequalWorkError(RuntimeError):
    """The two sides did not do the same: there is no number."""


@dataclass(frozen=True)
class Result:
    """One entry of the report. Rates are real tokens a second, medians over the timed steps; `ratio` is the median of
    ours over the peer's on the same step, `peak_share` the engine's rate of operations in linear layers over that of
    the same products alone."""

    name: str
    model: str
    peer: str
    peer_setting: str
    ours_tokens_s: float
    peer_tokens_s: float
    ratio: float
    ratio_min: float
    ratio_max: float
    peak_share: float
    ours_peak_mb: float
    peer_peak_mb: float
    max_loss_diff: float
    steps: int

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Step:
    """One step of both sides."""

    layout: str
    tokens: int
    ours_s: float
    peer_s: float
    loss_diff: float


def measure(entry: Entry, model: str, is_smoke: bool, tell: Tell) -> Result:
    """Runs the comparison; `tell(text, share)` is told the share of it that is done.

    Raises:
        UnequalWorkError: weights, tokens or a loss differ.
        RuntimeError: a run alone failed.
    """
    size = (SMOKE if is_smoke else SIZES)[model]
    # In memory first: it takes no time from, and leaves nothing to, the steps that are timed.
    ours_mb = alone(entry, model, "ours", size.layouts(entry)[0], is_smoke)
    tell(f"ours alone: {ours_mb:,.0f} MB", 0.06)
    planned = steps_of(entry, model, size.rows, size.steps(entry))
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as name:
        ours, peer = Ours(entry, model, planned), Peer(entry, model, len(planned), Path(name))
        check_same_start(ours, peer)
        flops_s = products_per_s(ours.linear_shapes(), sum(map(len, planned[0])))
        for rows in planned:
            peer.prepare(rows)
        steps = interleave(ours, peer, size, size.layouts(entry), Path(name), tell)
    timed = steps[-size.timed :]
    our_flops_s = statistics.median(ours.linear_flops(planned[0]) / step.ours_s for step in timed)
    setting = timed[0].layout
    del ours, peer
    gc.collect()
    peer_mb = alone(entry, model, "peer", setting, is_smoke)
    tell(f"{PEER} alone: {peer_mb:,.0f} MB", 1.0)
    ratios = [step.peer_s / step.ours_s for step in timed]
    return Result(
        name=entry.name,
        model=model,
        peer=PEER,
        peer_setting=setting,
        ours_tokens_s=statistics.median(step.tokens / step.ours_s for step in timed),
        peer_tokens_s=statistics.median(step.tokens / step.peer_s for step in timed),
        ratio=statistics.median(ratios),
        ratio_min=min(ratios),
        ratio_max=max(ratios),
        peak_share=our_flops_s / flops_s,
        ours_peak_mb=ours_mb,
        peer_peak_mb=peer_mb,
        max_loss_diff=max(step.loss_diff for step in steps),
        steps=len(timed),
    )


def check_same_start(ours: Ours, peer: Peer) -> None:
    """Gives the peer the engine's weights, and checks that the same ones are trained.

    Raises:
        UnequalWorkError: other names or shapes.
    """
    mine, theirs = ours.weights(), peer.weights()
    check_equal(shapes_of(mine), shapes_of(theirs), "the models have other weights")
    check_equal(shapes_of(ours.trained()), shapes_of(peer.trained()), "other parameters are trained")
    with torch.no_grad():
        for name, tensor in mine.items():
            theirs[name].copy_(tensor)


def check_equal(mine: dict[str, Any], theirs: dict[str, Any], what: str) -> None:
    """Raises UnequalWorkError with the first names that differ."""
    differing = sorted(name for name in {*mine, *theirs} if mine.get(name) != theirs.get(name))
    if differing:
        raise UnequalWorkError(f"{what}: {', '.join(differing[:3])} ({len(differing)} in all)")


def shapes_of(weights: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in weights.items()}


def interleave(ours: Ours, peer: Peer, size: Size, layouts: Sequence[str], folder: Path, tell: Tell) -> list[Step]:
    """The engine's loop, and between its steps the peer's on the same rows: one to warm up, `tried` with each layout,
    then with the fastest.

    Raises:
        UnequalWorkError: a loss or the peer's count of tokens differs.
    """
    steps: list[Step] = []
    trials = [layout for layout in layouts for _ in range(size.tried)]
    total = 1 + len(trials) + size.timed

    def on_step(rows: Sequence[AnyRow], loss: float, ours_s: float) -> None:
        number = len(steps)
        layout = layouts[0] if number == 0 else trials[number - 1] if number <= len(trials) else fastest(steps[1:])
        tokens, counted = num_tokens(rows), peer.tokens_seen
        torch.use_deterministic_algorithms(False)  # the engine's choice, not the peer's
        begun = time.perf_counter()
        peers_loss = peer.step(rows, layout)
        peer_s = time.perf_counter() - begun
        torch.use_deterministic_algorithms(True, warn_only=True)
        if peer.tokens_seen - counted != tokens:
            raise UnequalWorkError(f"step {number + 1} has {tokens} tokens, {PEER} saw {peer.tokens_seen - counted}")
        if not abs(loss - peers_loss) <= SAME_LOSS:  # NaN too
            raise UnequalWorkError(f"step {number + 1}: the loss is {loss:.6f} here and {peers_loss:.6f} at {PEER}")
        steps.append(Step(layout, tokens, ours_s, peer_s, abs(loss - peers_loss)))
        rates = f"ours {tokens / ours_s:,.0f} tokens/s, {PEER} {layout} {tokens / peer_s:,.0f}, {peer_s / ours_s:.2f}"
        tell(f"step {number + 1}/{total}: {rates}", 0.06 + 0.84 * len(steps) / total)

    ours.run(folder, on_step)
    return steps


def fastest(steps: Sequence[Step]) -> str:
    """The layout with the highest median rate among those tried; what came after it was chosen does not count."""
    rates: dict[str, list[float]] = defaultdict(list)
    for step in steps:
        rates[step.layout].append(step.tokens / step.peer_s)
    tried = min(map(len, rates.values()))
    return max(rates, key=lambda layout: statistics.median(rates[layout][:tried]))


def alone(entry: Entry, model: str, side: str, layout: str, is_smoke: bool) -> float:
    """Peak resident memory in MB of two steps of one side in a process of its own, imports included.

    Raises:
        RuntimeError: it failed; with its last words.
    """
    given = {"entry": entry.name, "model": model, "side": side, "layout": layout, "is_smoke": is_smoke}
    command = [sys.executable, "-m", "benchmarks.alone", json.dumps(given)]
    done = subprocess.run(command, cwd=Path(__file__).resolve().parent.parent, capture_output=True, text=True)
    if done.returncode:
        last = "\n".join(done.stderr.strip().splitlines()[-6:])
        raise RuntimeError(f"{side} alone ({entry.name}, {model}) failed:\n{last}")
    return float(done.stdout.strip().splitlines()[-1])
