"""The comparison with TRL: equal work on both sides or no number at all, and a peer that does what its Trainer does."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from datasets import Dataset

from benchmarks import __main__ as command
from benchmarks import growth, measure, ours, passes, peer, report, scale, workload
from benchmarks.measure import Result, Step, UnequalWorkError
from benchmarks.workload import ENTRIES
from posttrain.engine.data.encoded import Group, Row

pytestmark = pytest.mark.filterwarnings("ignore")  # TRL's and accelerate's own

KEYS = [
    *("name", "model", "peer", "peer_setting", "ours_tokens_s", "peer_tokens_s", "ratio", "ratio_min", "ratio_max"),
    *("peak_share", "ours_peak_mb", "peer_peak_mb", "max_loss_diff", "steps"),
]


@pytest.fixture
def without_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs alone take ten seconds each; one test has them."""
    monkeypatch.setattr(measure, "alone", lambda *_: 100.0)


@pytest.mark.slow
def test_the_command_writes_results_and_a_table(tmp_path: Path) -> None:
    page, results = tmp_path / "page.md", tmp_path / "results.json"
    page.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n", "utf-8")
    arguments = ["--smoke", "--only", "dpo_lora_cached", "--json", str(results), "--markdown", str(page)]
    done = CliRunner().invoke(command.main, arguments)
    assert done.exit_code == 0, done.output
    (found,) = json.loads(results.read_text("utf-8"))
    assert list(found) == KEYS
    assert (found["name"], found["model"], found["peer"], found["steps"]) == ("dpo_lora_cached", "3m", "TRL", 2)
    assert 0 < found["ratio_min"] <= found["ratio"] <= found["ratio_max"] < math.inf
    assert 100 < found["ours_peak_mb"] < found["peer_peak_mb"]  # TRL alone takes a hundred to import
    assert 0 < found["max_loss_diff"] < 1e-4  # two programs: the same loss, not the same bits
    assert 0 < found["peak_share"] < 1
    text = page.read_text("utf-8")
    assert text.startswith(f"before\n{report.BEGIN}\n20")
    assert text.endswith(f"|\n{report.END}\nafter\n")
    assert "| dpo_lora_cached | 3m |" in text
    assert "old" not in text
    assert "is no measurement" in text
    assert " left)" in done.stderr


@pytest.mark.parametrize("name", [name for name in ENTRIES if name != "dpo_lora_cached"])
def test_both_sides_do_the_same(name: str, without_memory: None) -> None:
    told: list[float] = []
    result = measure.measure(ENTRIES[name], "3m", True, lambda _, share: told.append(share))
    assert result.max_loss_diff < 1e-5
    assert result.peer_setting in workload.SMOKE["3m"].layouts(ENTRIES[name])
    assert told == sorted(told)
    assert told[-1] == 1.0


@pytest.mark.parametrize(
    ("what", "words"),
    [("loss", "step 1: the loss is"), ("nan", "step 1: the loss is"), ("tokens", "step 1 has"), ("weights", "trained")],
)
def test_unequal_work_is_void(
    what: str, words: str, without_memory: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    step, trained = peer.Peer.step, peer.Peer.trained

    def other(self: peer.Peer, rows: Any, layout: str) -> float:
        if what == "tokens":
            return step(self, rows[1:], layout)
        return step(self, rows, layout) + {"loss": 2e-4, "nan": math.nan}.get(what, 0.0)

    monkeypatch.setattr(peer.Peer, "step", other)
    if what == "weights":
        monkeypatch.setattr(peer.Peer, "trained", lambda self: dict(list(trained(self).items())[1:]))
    results = tmp_path / "results.json"
    done = CliRunner().invoke(command.main, ["--smoke", "--only", "sft_full", "--json", str(results)])
    assert done.exit_code == command.VOID == 3
    assert "Void: sft_full 3m: " in done.stderr
    assert words in done.stderr
    assert not results.exists()


@pytest.mark.parametrize(
    ("name", "layout"), [("sft_full", "grouped:2"), ("dpo_lora", "padded:2"), ("reward", "padded:2")]
)
def test_the_peers_step_is_its_trainers(name: str, layout: str, tmp_path: Path) -> None:
    """Two steps of two passes leave the weights that `Trainer.train` leaves, bit by bit."""
    entry = ENTRIES[name]
    steps = workload.steps_of(entry, "3m", 4 if name == "sft_full" else 8, 2)
    stepped = peer.Peer(entry, "3m", 2, tmp_path)
    start = {key: weight.detach().clone() for key, weight in stepped.trained().items()}
    with torch.no_grad():
        ours.randomise_b(stepped.trained())
    for rows in steps:
        stepped.step(rows, layout)

    trainer = peer.make_trainer(entry, "3m", tmp_path)
    with torch.no_grad():
        ours.randomise_b({key: p for key, p in trainer.model.named_parameters() if p.requires_grad})
    ordered = [row for rows in steps for row in (peer.by_length(rows) if name == "sft_full" else rows)]
    trainer.train_dataset = Dataset.from_list([peer.EXAMPLES[entry.kind](row) for row in ordered])
    trainer.args.per_device_train_batch_size = trainer._train_batch_size = 2
    trainer.args.gradient_accumulation_steps, trainer.args.max_steps = 2, 2
    trainer.args.train_sampling_strategy = "sequential"
    trainer.train()
    assert trainer.state.global_step == 2
    found = {key.removeprefix("base_model.model."): p for key, p in trainer.model.named_parameters()}
    for key, weight in stepped.trained().items():
        assert torch.equal(weight, found[key]), key
        if "embed" not in key and "lora_A" not in key:
            assert not torch.equal(weight, start[key]), key


# -- what is computed --------------------------------------------------------------------------------------------------


def test_the_timed_steps_are_of_the_fastest_layout() -> None:
    def step(layout: str, peer_s: float) -> Step:
        return Step(layout, 100, 1.0, peer_s, 0.0)

    tried = [step("padded:1", 4.0), step("padded:1", 2.2), step("packed:256", 2.5), step("packed:256", 3.0)]
    assert measure.fastest(tried) == "packed:256"  # by medians: 36.7 against 35.2
    # Later steps of the chosen one are no reason to choose another.
    assert measure.fastest([*tried, step("packed:256", 9.0), step("packed:256", 9.0)]) == "packed:256"


def test_operations_by_hand() -> None:
    """Per layer 4 x 192^2 + 3 x 192 x 512 weights; a head of 2048 x 192; LoRA adds 16 x (inputs + outputs)."""
    backbone = 6 * (4 * 192 * 192 + 3 * 192 * 512)
    adapter = 6 * 16 * (4 * (192 + 192) + 3 * (192 + 512))
    expected = {
        "sft_full": lambda n, t: 6 * backbone * n + 6 * 2048 * 192 * t,
        "sft_lora": lambda n, t: 4 * backbone * n + 6 * adapter * n + 4 * 2048 * 192 * t,
        "dpo_lora": lambda n, t: 6 * backbone * n + 6 * adapter * n + 6 * 2048 * 192 * t,
        "dpo_lora_cached": lambda n, t: 4 * backbone * n + 6 * adapter * n + 4 * 2048 * 192 * t,
        "reward": lambda n, t: 6 * backbone * n + 6 * 192 * n,
    }
    for name, entry in ENTRIES.items():
        steps = workload.steps_of(entry, "3m", 4, 1)
        computed = sum(map(len, steps[0]))
        side = ours.Ours(entry, "3m", steps)
        assert side.linear_flops(steps[0]) == expected[name](computed, sum(row.num_targets for row in steps[0])), name
        assert sum(a * b for a, b in side.linear_shapes()) == backbone + (192 if name == "reward" else 0)


def test_rows_are_the_same_each_time_and_as_long_as_promised() -> None:
    lengths = workload.lengths(200)
    assert (min(lengths), max(lengths)) == (20, 400)
    assert sorted(lengths)[100] == pytest.approx(90, abs=2)
    entry = ENTRIES["sft_full"]
    steps = workload.steps_of(entry, "3m", 6, 3)
    assert steps == workload.steps_of(entry, "3m", 6, 3)
    assert [sorted(map(len, step)) for step in steps] == [workload.lengths(6)] * 3
    assert list(map(len, steps[0])) != list(map(len, steps[1]))
    pairs = workload.steps_of(ENTRIES["dpo_lora"], "3m", 6, 2)
    for pair in (pair for step in pairs for pair in step):
        assert isinstance(pair, Group)
        assert len(pair.prefix) == pytest.approx(3 * len(pair.branches[0]), abs=3)
    assert workload.num_tokens(pairs[0]) == sum(2 * len(p.prefix) + sum(map(len, p.branches)) for p in pairs[0])
    assert workload.num_tokens(pairs[0]) == workload.num_tokens(pairs[1])


def test_blocks_hold_each_row_once() -> None:
    step = workload.steps_of(ENTRIES["sft_full"], "3m", 6, 1)[0]
    blocks = peer.share_out(step, 2)
    assert sorted(row.number for block in blocks for row in block) == list(range(6))
    assert abs(sum(map(len, blocks[0])) - sum(map(len, blocks[1]))) <= min(map(len, step))
    example = peer.packed_example(blocks[0])
    assert example["seq_lengths"] == [len(row) for row in blocks[0]]
    assert len(example["input_ids"]) == len(example["labels"]) == sum(example["seq_lengths"])
    first = blocks[0][0]
    assert isinstance(first, Row)
    assert sum(label != peer.IGNORED for label in example["labels"][: len(first)]) == first.num_targets
    assert len(peer.share_out(step, 99)) == 6


RESULT = Result("sft_full", "3m", "TRL", "packed:256", 4000.0, 2000.4, 2.0, 1.9, 2.25, 0.66, 610.2, 1200.0, 3e-6, 12)


def test_a_row_of_the_table() -> None:
    assert report.table_row(RESULT) == (
        "| sft_full | 3m | packed:256 | 4,000 / 2,000 | 2.00 (1.90-2.25) | 66% | 610 / 1,200 | 3e-06 | 12 |\n"
    )
    table = report.as_markdown([RESULT], threads=2, load=0.1, is_smoke=False)
    assert "2 threads, load before 0.1" in table
    assert "trl 1.16.0" in table
    assert "no measurement" not in table
    assert json.loads(report.as_json([RESULT, RESULT])) == [RESULT.as_dict()] * 2


def test_a_page_without_marks_is_told(tmp_path: Path, without_memory: None, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    page.write_text("nothing\n", "utf-8")
    monkeypatch.setattr(measure, "measure", lambda *_: copy.deepcopy(RESULT))
    done = CliRunner().invoke(command.main, ["--smoke", "--only", "sft_full", "--markdown", str(page)])
    assert done.exit_code == 1
    assert "page.md has no <!-- begin" in done.output
    assert page.read_text("utf-8") == "nothing\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--only", "sft"], "'sft' is not one of"),
        (["--model", "8b"], "'8b' is not one of"),
        (["--rows", "3"], "--rows"),
    ],
)
def test_bad_options_are_named(arguments: list[str], words: str) -> None:
    done = CliRunner().invoke(command.main, arguments)
    assert done.exit_code == 2
    assert words in done.output


def test_a_missing_trl_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command.util, "find_spec", lambda _: None)
    done = CliRunner().invoke(command.main, ["--smoke"])
    assert done.exit_code == 1
    assert "TRL is not installed; it comes with the extra" in done.output


def test_a_failing_run_is_told_with_its_last_words() -> None:
    with pytest.raises(RuntimeError, match=r"nobody alone \(sft_full, 8b\) failed:[\s\S]*KeyError: '8b'"):
        measure.alone(ENTRIES["sft_full"], "8b", "nobody", "padded:1", True)


def test_unequal_work_is_told_as_such() -> None:
    assert issubclass(UnequalWorkError, RuntimeError)


def test_growth_measures_the_rows_that_it_says() -> None:
    steps = growth.steps_of(64, 3, 2)
    assert [[len(row) for row in rows] for rows in steps] == [[64] * 3] * 2
    assert {row.num_targets for rows in steps for row in rows} == {32}
    assert len({bytes(row.ids) for rows in steps for row in rows if isinstance(row, Row)}) == 6, "no row twice"
    found = growth.measure(64, 3, 1)
    assert 0 < found["share"] < 1
    assert found["tokens_s"] > 0
    text = growth.table([{**found, "tokens_s": 1234.5, "share": 0.5}])
    assert text.splitlines()[-1] == "| 64 | 3 | 1,234 | 50% |"


def test_passes_measures_what_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(passes.SIZES, "3m", workload.SMOKE["3m"])
    found = [passes.measure("sft_lora", "3m", size, 1) for size in (256, 4096)]
    assert [one["micro_tokens"] for one in found] == [256, 4096]
    assert all(one["tokens_s"] > 0 and one["peak_mb"] > 100 for one in found)
    text = passes.table([{**one, "tokens_s": 1234.5, "peak_mb": 600.2} for one in found])
    assert text.splitlines()[0] == "| entry | model | 256 | 4,096 |"
    assert text.splitlines()[-1] == "| sft_lora | 3m | 1,234 tokens/s, 600 MB | 1,234 tokens/s, 600 MB |"


def test_scale_goes_through_all_stages(tmp_path: Path) -> None:
    found = scale.measure(200, 50)
    assert [found[stage]["rows"] for stage in scale.STAGES] == [200, 200, 200]
    assert found["start"]["tokens_a_row"] > 10
    assert found["cache_bytes"] > 200
    cells = scale.table([found]).splitlines()[-1].split(" | ")
    assert cells[0] == "| 200"
    assert len(cells) == 11
