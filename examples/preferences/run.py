"""Five seeds of IFT, then tool-use training, then DPO, and a reward model: `python examples/preferences/run.py`.

Everything runs over the real service, on the base model inside the package. The gate judges DPO under
policies/preferences.yaml and tool-use training under policies/tools.yaml, each against its parent:

    tiny-base -> start -> tools -> preferences -> reward

A second run in the same folder goes on where the first one ended: a job that is on record is not run again. With
`--shard dev` the gate judges on the dev shard, which is where settings are chosen.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import tempfile
from collections import defaultdict
from collections.abc import Awaitable
from pathlib import Path
from typing import Any, TypeVar

import torch
import yaml
from make_data import build_files
from table import markdown
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from posttrain.engine.data.encode import Encoder
from posttrain.engine.data.preferences import read_pair
from posttrain.engine.models import own_template
from posttrain.service.cli.records import enum_name
from posttrain.service.cli.settings import Settings
from posttrain.service.cli.spawn import running_server
from posttrain.service.cli.text import echo, span_s
from posttrain.service.client import AsyncClient, ClientError
from posttrain.service.proto import gates_pb2, jobs_pb2

T = TypeVar("T")
HERE = Path(__file__).resolve().parent
BASE = ("tiny-base", "builtin:tiny-base")
SUITES = ["instruction_following", "conversation", "reasoning", "refusal", "tool_use"]
JUDGED = ("preferences", "tools")
# Shards of dev hold fewer rows than the gate's, for which the policies are written.
DEV_ROWS = 300


class Seed:
    """One seed's chain of jobs."""

    def __init__(self, client: AsyncClient, home: Path, seed: int, shard: str) -> None:
        self._client = client
        self._home = home
        self._seed = seed
        self._shard = shard
        self._model = f"seed-{seed}"

    async def run(self, files: dict[str, bytes]) -> dict[str, Any]:
        """Everything of this seed, as plain JSON values."""
        refs = {name.removesuffix(".jsonl"): await self._dataset(name, body) for name, body in files.items()}
        start = await self._train("start", f"{BASE[0]}@1", refs)
        tools = await self._train("tools", start["version"], refs)
        preferences = await self._train("preferences", tools["version"], refs)
        reward = await self._train("reward", preferences["version"], refs)
        reward["held_out"] = await self._held_out(reward["version"], files["held_out.jsonl"])
        return {"seed": self._seed, "start": start, "tools": tools, "preferences": preferences, "reward": reward}

    async def _dataset(self, file: str, body: bytes) -> str:
        """The sealed version with these bytes; added if there is none."""
        name = f"{self._model}-{file.removesuffix('.jsonl').replace('_', '-')}"
        path = self._home / "rows" / f"{name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
        for item in await known(self._client.list_datasets(name)):
            if item.sealed and item.sha256 == hashlib.sha256(body).hexdigest():
                return item.ref
        return (await self._client.add_dataset(name, path, "examples/preferences/make_data.py")).ref

    async def _train(self, stage: str, base: str, refs: dict[str, str]) -> dict[str, Any]:
        """Runs the stage's job, or finds it on record.

        Raises:
            RuntimeError: the job or its chain failed.
        """
        spec = yaml.safe_load((HERE / f"{stage}.yaml").read_text(encoding="utf-8"))
        spec |= {"base": base, "seed": self._seed, "display_name": f"{stage}, seed {self._seed}"}
        spec["output"] = f"{self._model}-reward" if stage == "reward" else self._model
        for source in spec["data"]:
            source["dataset"] = refs[source["dataset"].partition("@")[0]]
        if stage in JUDGED:
            spec["then"] = {"type": "gate", "suites": SUITES, "policy": f"{stage}-{self._shard}", "alias": stage}
        digest = hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()
        job = await self._client.create_job(spec, request_id=f"{stage}-{self._seed}-{digest[:16]}")
        job = await self._client.wait_job(job.name)
        if job.state != jobs_pb2.SUCCEEDED or job.chain.step == jobs_pb2.CHAIN_FAILED:
            raise RuntimeError(f"{stage}, seed {self._seed}: {job.error.message or job.chain.message} ({job.name})")
        record = await self._record(job)
        echo(f"seed {self._seed}, {stage}: {record['version']} {record.get('verdict', '')}")
        return record

    async def _record(self, job: jobs_pb2.Job) -> dict[str, Any]:
        points = (await self._client.list_job_metrics(job.name, page_size=1000)).points
        record: dict[str, Any] = {
            "job": job.name,
            "version": job.chain.version,
            "seconds": round(span_s(job.start_time, job.end_time), 1),
            "steps": points[-1].step,
            "last": {name: round(value, 4) for name, value in sorted(points[-1].values.items())},
        }
        if job.chain.gate_run:
            gate = await self._client.get_gate_run(job.chain.gate_run)
            record["verdict"] = enum_name(gates_pb2.Verdict, gate.verdict)
            record["metrics"] = {
                result.metric.rpartition("/")[2]: {
                    "rule": result.rule,
                    "verdict": enum_name(gates_pb2.Verdict, result.verdict),
                    **{name: round(getattr(result, name), 5) for name in FIELDS},
                }
                for result in gate.metrics
            }
            record["reasons"] = [f"{reason.code} {reason.metric}: {reason.message}" for reason in gate.reasons]
            record["report_digest"] = gate.report_digest
        return record

    async def _held_out(self, version: str, rows: bytes) -> dict[str, Any]:
        pairs = [json.loads(line) for line in rows.decode().splitlines()]
        with tempfile.TemporaryDirectory() as parent:  # the service exports to nowhere inside its data folder
            folder = Path(parent) / "model"
            await self._client.export_model(version, str(folder))
            return await asyncio.to_thread(accuracy, folder, pairs)


async def known(listing: Awaitable[list[T]]) -> list[T]:
    """A list, empty if the thing whose versions are asked for does not exist yet."""
    try:
        return await listing
    except ClientError as error:
        if error.code == "NOT_FOUND":
            return []
        raise


FIELDS = ("n", "baseline", "candidate", "difference", "low", "high")


@torch.no_grad()
def accuracy(folder: Path, pairs: list[dict[str, Any]]) -> dict[str, Any]:
    """Share of pairs whose chosen answer scores above the rejected one: all, by metric and by fault.

    By transformers' own scoring model, one sequence at a time: nothing here is shared with the training but the ids.
    """
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = AutoModelForSequenceClassification.from_pretrained(
        folder, dtype=torch.float32, local_files_only=True
    ).eval()
    template = own_template(tokenizer)
    if template is None:
        raise RuntimeError(f"{folder} has no chat template")
    encoder = Encoder(tokenizer, template, [tokenizer.eos_token_id])
    found: dict[str, list[bool]] = defaultdict(list)
    for number, pair in enumerate(pairs, 1):
        group = encoder.pair(read_pair(pair), "held out", number)
        chosen, rejected = (
            float(model(torch.tensor([[*group.prefix, *branch.ids]])).logits) for branch in group.branches
        )
        family, fault = pair["meta"]["family"], pair["meta"]["fault"]
        for name in ("all", family, f"{family}: {fault}"):
            found[name].append(chosen > rejected)
    return {name: {"n": len(hits), "accuracy": round(sum(hits) / len(hits), 4)} for name, hits in sorted(found.items())}


def write_policies(home: Path, shard: str) -> None:
    """The policies as operator's own ones of this data folder, named after the shard that they judge on."""
    folder = home / "policies"
    folder.mkdir(parents=True, exist_ok=True)
    for stage in JUDGED:
        policy = yaml.safe_load((HERE / "policies" / f"{stage}.yaml").read_text(encoding="utf-8"))
        policy |= {"name": f"{stage}-{shard}", "shard": shard}
        if shard == "dev":
            for metric in policy["metrics"]:
                metric["min_rows"] = DEV_ROWS
        (folder / f"{stage}-{shard}.yaml").write_text(yaml.safe_dump(policy, sort_keys=False), encoding="utf-8")


async def run_all(address: str, home: Path, seeds: list[int], shard: str, out: Path) -> None:
    """Runs the seeds side by side; the server says how many jobs run at a time. Writes after each seed."""
    done: list[dict[str, Any]] = []
    async with AsyncClient(address) as client:
        if not await known(client.list_models(BASE[0])):
            await client.import_model(*BASE)
        runs = [Seed(client, home, seed, shard).run(await asyncio.to_thread(build_files, seed)) for seed in seeds]
        for coming in asyncio.as_completed(runs):
            done.append(await coming)
            done.sort(key=lambda record: int(record["seed"]))
            out.with_suffix(".json").write_text(json.dumps({"shard": shard, "seeds": done}, indent=1) + "\n")
            out.with_suffix(".md").write_text(markdown(done))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--home", type=Path, default=Path(".learning"), help="data folder; a server that runs there is used"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--shard", choices=["gate", "dev"], default="gate")
    parser.add_argument("--out", type=Path, help="results, with .json and .md after it; else HOME/results-SHARD")
    arguments = parser.parse_args()
    home = arguments.home.absolute()
    out = arguments.out or home / f"results-{arguments.shard}"
    write_policies(home, arguments.shard)
    with running_server(Settings(home)) as (address, _):
        asyncio.run(run_all(address, home, arguments.seeds, arguments.shard, out))
    echo(out.with_suffix(".md").read_text())


if __name__ == "__main__":
    main()
