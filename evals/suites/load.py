"""Reads a suite: its manifest, and examples out of the sources that the manifest pins by sha256.

A manifest lies beside its sources. One that points at a mirror of a public set instead (`root_variable`) is looked up
there, and `pack_suite` copies manifest and sources into one folder, so that it travels; its digest stays the same,
because it covers what was pinned and not where it lay. A source never lies outside its folder, neither by `..` nor by a
symbolic link.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import stat
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from posttrain.engine.checkers import CHECKERS
from posttrain.engine.data.rows import RowError, parse_row
from posttrain.engine.spec import Name, canonical_json, sha256_text
from posttrain.evals.errors import SuiteError
from posttrain.evals.policy import load_yaml
from posttrain.evals.rows import Digest, Shard
from posttrain.evals.scorers import SCORERS, ScorerName
from posttrain.evals.suites.sources import FORMATS, Example, SourceFormat

SUFFIX = ".suite.yaml"
MAX_MANIFEST_BYTES = 1 << 20
MAX_SOURCE_BYTES = 1 << 30
DATA = Path(__file__).parent / "data"


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Source(Part):
    """A JSONL file. `path` is relative to the manifest's folder (or the mirror's), with forward slashes."""

    format: SourceFormat
    path: str
    sha256: Digest

    @field_validator("path")
    @classmethod
    def _inside(cls, path: str) -> str:
        parts = PurePosixPath(path).parts
        if not parts or path.startswith("/") or ".." in parts or "\\" in path or "\0" in path:
            raise ValueError("must be a relative path inside the suite's folder")
        return path


class Shot(Part):
    """A worked example for the plain few-shot prompt."""

    prompt: Annotated[str, Field(min_length=1)]
    answer: Annotated[str, Field(min_length=1)]


class TaskManifest(Part):
    """One task: which rows of its source (those of its metric), how an answer is scored, and how long it may be.

    `scorer` is a scorer's name, or a checker's; the rows of a `posttrain` source name their checkers themselves.
    """

    name: Name
    metric: Annotated[str, Field(min_length=1, max_length=128)]
    source: Source
    scorer: str
    max_new_tokens: Annotated[int, Field(ge=1, le=32768)]
    shards: list[Shard] = Field(min_length=1)
    shots: list[Shot] = Field(default_factory=list, max_length=8)

    @field_validator("scorer")
    @classmethod
    def _known(cls, name: str) -> str:
        known = sorted([*SCORERS, *CHECKERS])
        if name not in known:
            raise ValueError(f"no scorer named {name!r}; there are {', '.join(known)}")
        return name

    @property
    def scorer_name(self) -> ScorerName:
        return "checker" if self.scorer in CHECKERS else cast(ScorerName, self.scorer)

    def owns(self, example: Example) -> bool:
        """Whether an example of the source is this task's."""
        is_metric = example.metric == self.metric or example.metric.startswith(f"{self.metric}.")
        return is_metric and example.shard in self.shards


class Manifest(Part):
    name: Name
    version: Annotated[str, Field(pattern=r"^[0-9]{1,9}(\.[0-9]{1,9}){0,3}$")]  # numbers with dots; it only rises
    description: str = ""
    root_variable: Annotated[str, Field(pattern=r"^([A-Z][A-Z0-9_]*)?$")] = Field(
        "",
        description="environment variable with the folder of a mirrored set, where sources are not beside the manifest",
    )
    tasks: list[TaskManifest] = Field(min_length=1)

    @model_validator(mode="after")
    def _unique(self) -> Manifest:
        names = [task.name for task in self.tasks]
        if len(set(names)) < len(names):
            raise ValueError("two tasks have the same name")
        return self


@dataclass(frozen=True)
class SuiteTask:
    """A task with its examples, of all shards, in the order of the source."""

    suite: str
    manifest: TaskManifest
    examples: tuple[Example, ...]

    @property
    def name(self) -> str:
        return self.manifest.name


@dataclass(frozen=True)
class Suite:
    """A loaded suite. `digest` covers the manifest's content and, by their pinned digests, the sources."""

    manifest: Manifest
    path: Path
    sources: dict[str, Path] = field(repr=False)
    tasks: tuple[SuiteTask, ...] = field(repr=False)

    @property
    def name(self) -> str:
        return self.manifest.name

    @property
    def version(self) -> str:
        return self.manifest.version

    @property
    def digest(self) -> str:
        return manifest_digest(self.manifest)


def manifest_digest(manifest: Manifest) -> str:
    """Hex sha256 of the canonical manifest without where its sources lie."""
    return sha256_text(canonical_json(manifest.model_dump(mode="json", exclude={"root_variable"})))


def version_order(version: str) -> tuple[int, ...]:
    """What versions are compared by: 1.10 is above 1.9, and 1 is 1.0."""
    numbers = [int(part) for part in version.split(".")]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def builtin_suites() -> list[str]:
    """Names of the suites that the package ships, sorted."""
    return sorted(path.name.removesuffix(SUFFIX) for path in DATA.glob(f"*{SUFFIX}"))


def read_manifest(path: Path) -> Manifest:
    """Reads a manifest only.

    Raises:
        SuiteError: not readable, not YAML, an unknown field, a wrong type, or a name other than the file's.
    """
    if not path.name.endswith(SUFFIX):
        raise SuiteError(f"{path}: a suite's manifest is named NAME{SUFFIX}")
    try:
        data = load_yaml(_read(path, MAX_MANIFEST_BYTES).decode("utf-8"), str(path))
        manifest = Manifest.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise SuiteError(f"{path}: {place + ': ' if place else ''}{first['msg']}") from error
    except (OSError, ValueError) as error:
        raise SuiteError(f"{path}: {error}") from error
    if path.name != f"{manifest.name}{SUFFIX}":
        raise SuiteError(f"{path}: the suite is named {manifest.name}, so the file must be {manifest.name}{SUFFIX}")
    return manifest


def load_suite(name_or_path: str | Path, environment: Mapping[str, str] = os.environ) -> Suite:
    """Loads a suite with all its examples: one that the package ships by its name, any by its manifest's path.

    Raises:
        SuiteError: there is none; a source is missing, outside the folder or not the pinned one; a row cannot be used.
    """
    path = Path(name_or_path)
    if isinstance(name_or_path, str) and "/" not in name_or_path and not name_or_path.endswith(".yaml"):
        path = DATA / f"{name_or_path}{SUFFIX}"
        if not path.is_file():
            raise SuiteError(f"no suite named {name_or_path!r}; the package ships {', '.join(builtin_suites())}")
    manifest = read_manifest(path)
    sources: dict[str, Path] = {}
    tasks = []
    for task in manifest.tasks:
        source = _locate(path, manifest, task.source.path, environment)
        content = _read_pinned(source, task.source)
        sources[task.source.path] = source
        tasks.append(SuiteTask(manifest.name, task, _parse(source, content, task)))
    owners: dict[str, str] = {}
    for part in tasks:
        for example in part.examples:
            if example.id in owners:
                raise SuiteError(f"{path}: {owners[example.id]} and {part.name} both have a row {example.id!r}")
            owners[example.id] = part.name
    return Suite(manifest, path, sources, tuple(tasks))


def pack_suite(suite: Suite, folder: Path) -> Path:
    """Copies manifest and sources into a folder that `load_suite` can read alone; returns the manifest's path there."""
    for relative, source in suite.sources.items():
        target = folder / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    path = folder / suite.path.name
    shutil.copyfile(suite.path, path)
    return path


def sample(examples: list[Example], max_rows: int, seed: int) -> list[Example]:
    """At most `max_rows` examples, in their order: each stratum keeps its share (largest remainder), 0 keeps all.

    Which rows of a stratum come first depends on the seed and the rows' ids alone, not on the order of the source.
    """
    if not max_rows or len(examples) <= max_rows:
        return list(examples)
    strata: dict[tuple[str, str], list[Example]] = defaultdict(list)
    for example in examples:
        strata[(example.metric, example.stratum)].append(example)
    exact = {key: max_rows * len(group) / len(examples) for key, group in strata.items()}
    counts = {key: int(share) for key, share in exact.items()}
    for key in sorted(strata, key=lambda key: (counts[key] - exact[key], key))[: max_rows - sum(counts.values())]:
        counts[key] += 1
    kept: set[str] = set()
    for key, group in strata.items():
        ranked = sorted(group, key=lambda example: random.Random(f"{seed}/{example.id}").random())
        kept.update(example.id for example in ranked[: counts[key]])
    return [example for example in examples if example.id in kept]


def _locate(path: Path, manifest: Manifest, relative: str, environment: Mapping[str, str]) -> Path:
    """The source's file: beside the manifest, or else in the mirror that the environment names."""
    roots = [path.parent]
    if manifest.root_variable and environment.get(manifest.root_variable):
        roots.append(Path(environment[manifest.root_variable]))
    for root in roots:
        found = root / relative
        if found.is_file():
            if not found.resolve().is_relative_to(root.resolve()):
                raise SuiteError(f"{path}: {relative} leads out of {root}")
            return found
    hint = f"; set {manifest.root_variable} to the folder that holds it" if manifest.root_variable else ""
    raise SuiteError(f"{path}: the source {relative} is not there{hint}")


def _read(path: Path, limit: int) -> bytes:
    """An ordinary file of at most `limit` bytes: neither a pipe, which would wait for ever, nor an endless device.

    Raises:
        SuiteError, OSError
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise SuiteError(f"{path}: not an ordinary file")
        content = file.read(limit + 1)
    if len(content) > limit:
        raise SuiteError(f"{path}: larger than {limit} bytes")
    return content


def _read_pinned(path: Path, source: Source) -> bytes:
    content = _read(path, MAX_SOURCE_BYTES)
    digest = hashlib.sha256(content).hexdigest()
    if digest != source.sha256:
        raise SuiteError(f"{path}: sha256 is {digest}, the manifest pins {source.sha256}")
    return content


def _parse(path: Path, content: bytes, task: TaskManifest) -> tuple[Example, ...]:
    make: Callable[[dict[str, Any], TaskManifest], Example] = FORMATS[task.source.format]
    examples: list[Example] = []
    seen: dict[str, int] = {}
    for number, line in enumerate(content.splitlines(), start=1):
        try:
            example = make(parse_row(line), task)
        except RowError as error:
            place = f", field {error.field}" if error.field else ""
            raise SuiteError(f"{path}: row {number}{place}: {error}") from error
        except (KeyError, TypeError, ValueError) as error:
            message = f"no field {error}" if isinstance(error, KeyError) else str(error)
            raise SuiteError(f"{path}: row {number}: {message}") from error
        if example.id in seen:
            raise SuiteError(f"{path}: rows {seen[example.id]} and {number} have the same id {example.id!r}")
        seen[example.id] = number
        if task.owns(example):
            examples.append(example)
    if not examples:
        raise SuiteError(f"{path}: no rows of {task.metric} in the shards {', '.join(task.shards)}")
    return tuple(examples)


def describe(suite: Suite) -> str:
    """Counts by task, metric and shard as JSON, for people."""
    counts: dict[str, int] = defaultdict(int)
    for task in suite.tasks:
        for example in task.examples:
            counts[f"{task.name}/{example.metric}/{example.shard}"] += 1
    return json.dumps({"name": suite.name, "version": suite.version, "digest": suite.digest, "rows": counts}, indent=1)
