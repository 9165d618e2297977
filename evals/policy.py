"""Policies: versioned YAML documents that say what must hold before an alias may move. Imports no torch.

A policy names its metrics one by one; a metric without a rule, or a policy without a metric, is refused when it is
read, so that an empty gate can never pass. A rule that is absent is absent: there are no defaults for thresholds.
"""

from __future__ import annotations

import datetime
from collections.abc import Hashable
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from posttrain.engine.spec import NAME_PATTERN, Name, canonical_json, sha256_text
from posttrain.evals.attempts import MAX_ATTEMPTS, Spend
from posttrain.evals.errors import PolicyError
from posttrain.evals.overlaps import KINDS, Kind

POLICIES = Path(__file__).parent / "policies"
VERSION_PATTERN = rf"{NAME_PATTERN.removesuffix('$')}@[1-9][0-9]{{0,8}}$"

Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Margin = Annotated[float, Field(gt=0, le=0.5, allow_inf_nan=False)]
Baseline = Literal["parent", "champion", "ancestor"]
MAX_POLICY_LOOKS = 10


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Floor(Part):
    """The candidate's exact lower bound must reach `at_least`; 0 would hold for any answers and is refused."""

    type: Literal["floor"] = "floor"
    at_least: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]


class Ceiling(Part):
    """The candidate's exact upper bound must not exceed `at_most`; 1 would hold for any answers and is refused."""

    type: Literal["ceiling"] = "ceiling"
    at_most: Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]


class NonInferior(Part):
    """The lower bound of candidate - baseline must be above -margin.

    Against `parent` it holds for a parent that has a template of its own (an instruct version); an untrained base is
    the business of `improve`. Against `champion` it holds when the alias has one, against `ancestor` always: the
    policy pins that version, so that a chain of steps that are each within the margin cannot drift away from it.
    """

    type: Literal["noninferior"] = "noninferior"
    to: Baseline
    margin: Margin


class Improve(Part):
    """The lower bound of candidate - baseline must be above `by`.

    `when` says for which parents: an untrained base, or any.
    """

    type: Literal["improve"] = "improve"
    over: Baseline
    by: Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
    when: Literal["base", "always"] = "always"


Rule = Annotated[Floor | Ceiling | NonInferior | Improve, Field(discriminator="type")]


def baseline_of(rule: Floor | Ceiling | NonInferior | Improve) -> Baseline | Literal[""]:
    """What a rule compares the candidate with; empty for a floor or a ceiling."""
    return rule.to if isinstance(rule, NonInferior) else rule.over if isinstance(rule, Improve) else ""


class MetricPolicy(Part):
    """What must hold for one metric of one suite.

    `chance`: the score of guessing; a baseline that is not proven to beat it cannot carry a non-inferiority verdict.
    `max_truncated`: the largest share of the candidate's answers that may end at the token cap or at the context's end.
    `cluster`: which id of the rows makes examples depend on one another.
    """

    suite: Name
    metric: Annotated[str, Field(min_length=1, max_length=128)]
    min_rows: Annotated[int, Field(ge=2)]
    min_clusters: Annotated[int, Field(ge=2)]
    chance: Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)] = 0.0
    max_truncated: Share = 0.05
    cluster: Literal["wording", "cluster"] = "wording"
    rules: list[Rule] = Field(min_length=1)

    @model_validator(mode="after")
    def _consistent(self) -> MetricPolicy:
        keys = [(rule.type, baseline_of(rule)) for rule in self.rules]
        for kind, baseline in keys:
            if keys.count((kind, baseline)) > 1:
                which = f"{kind} rules against the {baseline}" if baseline else f"{kind} rules"
                raise ValueError(f"{self.suite}/{self.metric}: two {which}; one of them decides nothing")
        floors = [rule.at_least for rule in self.rules if isinstance(rule, Floor)]
        ceilings = [rule.at_most for rule in self.rules if isinstance(rule, Ceiling)]
        if floors and ceilings and max(floors) > min(ceilings):
            raise ValueError(f"{self.suite}/{self.metric}: the floor is above the ceiling")
        return self


class Sequential(Part):
    """Rules against a baseline are judged at equally spaced looks, and the first look that settles one decides it.

    `futility`: the chance of stopping without a proof that a model may have, for which a test without looks would have
    80% power; 0: no such stops. `posttrain.evals.sequential` has the boundaries.
    """

    looks: Annotated[int, Field(ge=2, le=MAX_POLICY_LOOKS)]
    futility: Annotated[float, Field(ge=0, le=0.5, allow_inf_nan=False)] = 0.05


class Attempts(Part):
    """How many versions of one lineage may be judged on this shard, and how they share alpha.

    `posttrain.evals.attempts` has the levels.
    """

    budget: Annotated[int, Field(ge=1, le=MAX_ATTEMPTS)]
    spend: Spend = "equal"


class NoiseFloor(Part):
    """No margin may be below what a second run of this side's own weights shows."""

    of: Baseline | Literal["candidate"]


class ImproveAny(Part):
    """At least one of the policy's metrics must be better than the baseline's by more than `by` (Holm)."""

    over: Baseline
    by: Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)] = 0.0


class Waiver(Part):
    """Somebody read a match and says that it does no harm: it counts no more until the day after `expires`."""

    question: Annotated[str, Field(pattern=r"^[^/]+/.+$", max_length=512, description="SUITE/ID")]
    by: Annotated[str, Field(min_length=1, max_length=128)]
    reason: Annotated[str, Field(min_length=1, max_length=1000)]
    expires: datetime.date


class Contamination(Part):
    """What the candidate and its ancestors were trained on is searched for the suites' questions.

    `block`: one that is found and not waived fails the gate. `warn`: the report counts them. `kinds`: which matches
    count; `posttrain.evals.contamination` has them.
    """

    action: Literal["block", "warn"]
    kinds: Annotated[list[Kind], Field(min_length=1)] = list(KINDS)
    waivers: list[Waiver] = []

    @model_validator(mode="after")
    def _once(self) -> Contamination:
        waived = [waiver.question for waiver in self.waivers]
        for what, names in (("kinds", list[str](self.kinds)), ("waivers", waived)):
            for name in names:
                if names.count(name) > 1:
                    raise ValueError(f"{what}: {name} is listed twice")
        return self


def _absent(value: object) -> bool:
    return value is None


class Policy(Part):
    """A policy document. `version` is its author's number; `digest` identifies its content.

    Options that are not given leave no trace in the digest, so that a new one changes no policy that does not use it.
    `ancestor`: NAME@NUMBER of the version that rules `to` or `over: ancestor` compare with.
    """

    format: Literal[1] = 1
    name: Name
    version: Annotated[int, Field(ge=1)]
    description: str = ""
    shard: Literal["gate", "dev"] = "gate"
    ancestor: Annotated[str, Field(pattern=VERSION_PATTERN)] | None = Field(default=None, exclude_if=_absent)
    sequential: Sequential | None = Field(default=None, exclude_if=_absent)
    attempts: Attempts | None = Field(default=None, exclude_if=_absent)
    noise_floor: NoiseFloor | None = Field(default=None, exclude_if=_absent)
    improve_any: ImproveAny | None = Field(default=None, exclude_if=_absent)
    contamination: Contamination | None = Field(default=None, exclude_if=_absent)
    metrics: list[MetricPolicy] = Field(min_length=1)

    @model_validator(mode="after")
    def _unique(self) -> Policy:
        keys = [(metric.suite, metric.metric) for metric in self.metrics]
        for key in keys:
            if keys.count(key) > 1:
                raise ValueError(f"{key[0]}/{key[1]} is listed twice")
        return self

    @model_validator(mode="after")
    def _every_option_decides(self) -> Policy:
        """An option that nothing would read is a mistake of its author."""
        compared = self.compared
        if self.ancestor and "ancestor" not in compared:
            raise ValueError(f"ancestor: no rule compares with {self.ancestor}; it decides nothing")
        if "ancestor" in compared and not self.ancestor:
            raise ValueError("ancestor: a rule compares with the ancestor, and none is pinned: give NAME@NUMBER")
        rules = [rule for metric in self.metrics for rule in metric.rules]
        if self.sequential and not any(isinstance(rule, NonInferior | Improve) for rule in rules):
            raise ValueError("sequential: looks are for rules against a baseline, and there is none")
        for waiver in self.contamination.waivers if self.contamination else []:
            if waiver.question.partition("/")[0] not in self.suites:
                raise ValueError(f"contamination: {waiver.question} is waived, and the policy judges no such suite")
        if self.noise_floor and not any(isinstance(rule, NonInferior) for rule in rules):
            raise ValueError("noise_floor: it bounds margins, and there is no noninferior rule")
        return self

    @property
    def compared(self) -> set[str]:
        """The baselines that some rule compares the candidate with."""
        named: set[str] = {baseline_of(rule) for metric in self.metrics for rule in metric.rules}
        if self.improve_any:
            named.add(self.improve_any.over)
        return named - {""}

    @property
    def suites(self) -> list[str]:
        """The suites that a gate under this policy needs, sorted."""
        return sorted({metric.suite for metric in self.metrics})

    @property
    def digest(self) -> str:
        """Hex sha256 of the canonical JSON, defaults included: comments and order of keys do not count."""
        return sha256_text(canonical_json(self))


class _Loader(yaml.SafeLoader):  # type: ignore[misc]  # PyYAML has no types here
    """Plain YAML in which a key that is given twice is an error instead of the last one winning."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable) and key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is given twice", key_node.start_mark
                )
            if isinstance(key, Hashable):
                seen.add(key)
        mapping: dict[Hashable, Any] = super().construct_mapping(node, deep=deep)
        return mapping


def load_yaml(text: str, place: str) -> Any:
    """Plain YAML data.

    Raises:
        ValueError: not YAML, or a key is given twice; the message starts with `place`.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"{place}: {_yaml_problem(error)}") from error


def _yaml_problem(error: Exception) -> str:
    """What is wrong and where, without the text itself: the file may not be the caller's to read."""
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        where = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        return f"{error.problem or error.context}{where}"
    return " ".join(str(error).split()) or type(error).__name__


def parse_policy(text: str, place: str = "policy") -> Policy:
    """Reads a policy from YAML text; `place` starts the messages.

    Raises:
        PolicyError: not YAML, an unknown field, a wrong type, no metric, a metric without a rule.
    """
    try:
        data = load_yaml(text, place)
    except ValueError as error:
        raise PolicyError(str(error)) from error
    if not isinstance(data, dict):
        raise PolicyError(f"{place}: a policy is a mapping with name, version and metrics")
    try:
        return Policy.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        raise PolicyError(
            f"{place}: {field + ': ' if field else ''}{first['msg'].removeprefix('Value error, ')}"
        ) from error


def builtin_policies() -> list[str]:
    """Names of the policies that the package ships, sorted."""
    return sorted(path.stem for path in POLICIES.glob("*.yaml"))


def load_policy(name_or_path: str | Path) -> Policy:
    """A policy by the name of one that the package ships, or from a file.

    A path has a separator or ends in .yaml or .yml; anything else is a name.

    Raises:
        PolicyError: there is none, or it cannot be used.
    """
    path = Path(name_or_path)
    if isinstance(name_or_path, str) and "/" not in name_or_path and path.suffix not in (".yaml", ".yml"):
        if name_or_path not in builtin_policies():
            raise PolicyError(f"no policy named {name_or_path!r}; the package ships {', '.join(builtin_policies())}")
        path = POLICIES / f"{name_or_path}.yaml"
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PolicyError(f"{path}: {error}") from error
    return parse_policy(text, str(path))
