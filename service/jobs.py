"""Creating and cancelling jobs: the spec is validated, every reference in it checked and pinned, then the job is
queued.

An alias or `latest` in a spec is replaced by the version that it names now, so that what was checked is what runs,
however long the job waits. A job whose references are wrong is never created.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from posttrain.engine.data.formats import Format, formats_for
from posttrain.engine.environments import tools
from posttrain.engine.errors import EngineError
from posttrain.engine.rewards.functions import not_allowed
from posttrain.engine.spec import (
    AnySpec,
    EvaluateSpec,
    HeldOutData,
    LoraAdapter,
    ModelReward,
    OwnTemplate,
    ThenGate,
    TrainSpec,
    VersionEvalTemplate,
    canonical_json,
    parse_spec,
    reward_models_of,
)
from posttrain.engine.targets import wrong_targets
from posttrain.evals.errors import PolicyError
from posttrain.evals.policy import Policy
from posttrain.registry import datasets, evidence, suites, versions
from posttrain.registry.errors import BadRefError, ConflictError, InvalidArgumentError, NotFoundError
from posttrain.registry.refs import check_alias
from posttrain.registry.store import Store, Transaction
from posttrain.registry.tables import JobRecord
from posttrain.service import lifecycle, states
from posttrain.service.convert import to_dict
from posttrain.service.errors import FieldViolation, IllegalTransitionError, InvalidFieldError
from posttrain.service.names import check_text, invalid
from posttrain.service.proto import spec_pb2
from posttrain.service.states import JobEvent

Policies = Callable[[str], Policy]  # a name to the policy in force


def read_spec(message: spec_pb2.JobSpec) -> AnySpec:
    """A spec from its message.

    Raises:
        InvalidFieldError, pydantic.ValidationError: each wrong option by its path.
    """
    if message.WhichOneof("kind") is None:
        raise invalid("kind", "a spec of one kind is needed")
    spec = parse_spec(to_dict(message))
    check_text("display_name", spec.display_name, 200)
    return spec


def check_allowed(spec: AnySpec, modules: Sequence[str], allows_python: bool) -> None:
    """Raises InvalidFieldError for functions in `rewards` and tools that this server does not allow."""
    places = [*not_allowed(getattr(spec, "rewards", ()), modules), *tools.not_allowed(spec, allows_python)]
    wrong = [FieldViolation(*each) for each in places]
    if wrong:
        raise InvalidFieldError(wrong)


# -- references -------------------------------------------------------------------------------------------------------


class References:
    """Checks the references of a spec and collects every one that is wrong, with the field that holds it."""

    def __init__(self, tx: Transaction, project: str) -> None:
        self._tx = tx
        self._project = project
        self._wrong: list[FieldViolation] = []

    def version(self, field: str, ref: str) -> str:
        try:
            version = versions.get_version(self._tx, self._project, ref)
        except (BadRefError, NotFoundError) as error:
            return self._refuse(field, ref, error)
        if version.role == "reward":
            self.wrong(field, f"{version.ref} is a reward model: it scores answers and writes none")
        return version.ref

    def reward_model(self, field: str, ref: str) -> str:
        try:
            version = versions.get_version(self._tx, self._project, ref)
        except (BadRefError, NotFoundError) as error:
            return self._refuse(field, ref, error)
        if version.role != "reward":
            self.wrong(field, f"{version.ref} is no reward model: its role is {version.role}; kind reward makes one")
        return version.ref

    def has_template(self, field: str, ref: str) -> None:
        try:
            version = versions.get_version(self._tx, self._project, ref)
        except (BadRefError, NotFoundError):
            return  # said already
        if not version.template_digest:
            way_out = "use kind ift, or set template to {type: builtin, name: chatml}"
            self.wrong(field, f"{version.ref} has no chat template, and template is own: {way_out}")

    def dataset(self, field: str, ref: str, kind: str, needed: tuple[Format, ...]) -> str:
        try:
            record = datasets.get_sealed(self._tx, self._project, ref)
        except (BadRefError, NotFoundError, InvalidArgumentError) as error:
            return self._refuse(field, ref, error)
        if record.format not in needed:
            self.wrong(field, f"{record.ref} has rows of format {record.format}; {kind} reads {' or '.join(needed)}")
        return record.ref

    def held_out(self, refs: list[str], trained_on: set[str], kind: str, needed: tuple[Format, ...]) -> list[str]:
        field = "held_out.datasets"
        pinned = [self.dataset(f"{field}[{index}]", ref, kind, needed) for index, ref in enumerate(refs)]
        for index, ref in enumerate(pinned):
            if ref in trained_on or ref in pinned[:index]:
                self.wrong(f"{field}[{index}]", f"{ref} is {'trained on' if ref in trained_on else 'listed twice'}")
        return pinned

    def suites(self, field: str, names: list[str]) -> None:
        for index, name in enumerate(names):
            try:
                suites.get_suite(self._tx, self._project, name)
            except NotFoundError as error:
                self._refuse(f"{field}[{index}]", name, error)
            if name in names[:index]:
                self.wrong(f"{field}[{index}]", f"{name} is listed twice")

    def then(self, then: ThenGate, base: str, policies: Policies) -> None:
        self.suites("then.suites", then.suites)
        try:
            check_alias(then.alias)
        except InvalidArgumentError as error:
            self._refuse("then.alias", then.alias, error)
        try:
            policy = policies(then.policy)
        except PolicyError as error:
            self._refuse("then.policy", then.policy, error)
            return
        for index, name in enumerate(then.suites):
            if name not in policy.suites:
                named = ", ".join(policy.suites)
                self.wrong(f"then.suites[{index}]", f"policy {policy.name} does not judge {name}; it judges {named}")
        missing = [name for name in policy.suites if name not in then.suites]
        if missing:
            self.wrong(
                "then.suites", f"policy {policy.name} also judges {', '.join(missing)}: without, it never passes"
            )
        is_known = all(violation.field != "base" for violation in self._wrong)
        if policy.ancestor is not None and policy.ancestor != base and is_known:  # what is trained comes from its base
            try:
                evidence.pinned_ancestor(self._tx, self._project, policy, base)
            except InvalidArgumentError as error:
                self._refuse("then.policy", then.policy, error)

    def _refuse(self, field: str, ref: str, error: EngineError) -> str:
        self.wrong(field, f"{error}; {error.hint}" if error.hint else str(error))
        return ref

    def wrong(self, field: str, description: str) -> None:
        self._wrong.append(FieldViolation(field, description))

    def done(self) -> None:
        if self._wrong:
            raise InvalidFieldError(self._wrong)


def wrong_targets_of(store: Store, project: str, spec: AnySpec) -> list[FieldViolation]:
    """Names in `adapter.targets` that are no layers of the base, by what its files say: the server loads no model. What
    they do not say, or a base that cannot be read, is the attempt's to tell."""
    if not isinstance(spec, TrainSpec) or not isinstance(spec.adapter, LoraAdapter) or not spec.adapter.targets:
        return []
    try:
        layers = versions.layers_of_version(store, project, spec.base)
    except (EngineError, OSError):
        return []
    wrong = wrong_targets(spec.adapter.targets, layers) if layers is not None else {}
    return [FieldViolation(f"adapter.targets[{index}]", what) for index, what in wrong.items()]


def pin(
    tx: Transaction, project: str, spec: AnySpec, policies: Policies, wrong: Sequence[FieldViolation] = ()
) -> AnySpec:
    """The spec with every reference as a number.

    Args:
        wrong: what was found wrong before, outside of the transaction.

    Raises:
        InvalidFieldError: names each field whose reference does not exist, and those of `wrong`.
    """
    check = References(tx, project)
    for violation in wrong:
        check.wrong(violation.field, violation.description)
    if isinstance(spec, EvaluateSpec):
        changes: dict[str, Any] = {"version": check.version("version", spec.version)}
        if isinstance(spec.template, VersionEvalTemplate):
            pinned = check.version("template.version", spec.template.version)
            changes["template"] = spec.template.model_copy(update={"version": pinned})
        check.suites("suites", spec.suites)
    else:
        needed = formats_for(spec)
        changes = {
            "base": check.version("base", spec.base),
            "data": [
                item.model_copy(
                    update={"dataset": check.dataset(f"data[{index}].dataset", item.dataset, spec.kind, needed)}
                )
                for index, item in enumerate(spec.data)
            ],
        }
        if isinstance(spec.held_out, HeldOutData):
            trained_on = {item.dataset for item in changes["data"]}
            refs = check.held_out(spec.held_out.datasets, trained_on, spec.kind, needed)
            changes["held_out"] = spec.held_out.model_copy(update={"datasets": refs})
        if reward_models_of(spec):
            changes["rewards"] = [
                part.model_copy(update={"model": check.reward_model(f"rewards[{index}].model", part.model)})
                if isinstance(part, ModelReward)
                else part
                for index, part in enumerate(getattr(spec, "rewards", ()))
            ]
        if isinstance(spec.template, OwnTemplate):
            check.has_template("base", spec.base)
        if isinstance(spec.then, ThenGate):
            check.then(spec.then, changes["base"], policies)
    check.done()
    return spec.model_copy(update=changes)


# -- creating ---------------------------------------------------------------------------------------------------------


def create(
    tx: Transaction,
    project: str,
    spec: AnySpec,
    policies: Policies,
    request_id: str = "",
    parent_job: str = "",
    wrong: Sequence[FieldViolation] = (),
) -> JobRecord:
    """A queued job; with a known request id and the same spec, the job that was made then.

    Raises:
        InvalidFieldError: a reference of the spec is wrong, or there are `wrong` ones.
        AlreadyExistsError: the request id was used for another spec.
    """
    asked = canonical_json(spec)
    # Remembered by what was asked, not by what it was pinned to: an alias may have moved since.
    known = tx.recall(project, "SubmitJob", request_id, asked)
    if known:
        return tx.get_job(project, known)
    job = tx.create_job(project, pin(tx, project, spec, policies, wrong), parent_job=parent_job)
    tx.remember(project, "SubmitJob", request_id, asked, job.id)
    if isinstance(spec, TrainSpec):
        tx.start_chain(project, job.id)
    return lifecycle.move(tx, job, JobEvent.ACCEPTED, "accept")


def preview(
    tx: Transaction, project: str, spec: AnySpec, policies: Policies, wrong: Sequence[FieldViolation] = ()
) -> AnySpec:
    """What `create` would queue; nothing is written. Raises as `create` does."""
    return pin(tx, project, spec, policies, wrong)


# -- cancelling -------------------------------------------------------------------------------------------------------


def cancel(tx: Transaction, project: str, job_id: str, etag: str = "") -> JobRecord:
    """Asks a job, or what is left of its chain, to stop.

    Raises:
        ConflictError: the etag is not the job's.
        IllegalTransitionError: there is nothing left to stop.
    """
    job = tx.get_job(project, job_id)
    if etag and etag != str(job.version):
        raise ConflictError(f"job {job.id} has changed: its etag is {job.version}, not {etag}")
    if job.state == states.CANCELLING:
        return job
    if job.state not in states.TERMINAL:
        return lifecycle.cancel(tx, job)
    chain = tx.get_chain(job.id)
    if job.state == states.SUCCEEDED and chain is not None and chain.step not in {*lifecycle.CHAIN_OVER, "PROMOTE"}:
        return lifecycle.cancel_chain(tx, job, chain)
    raise IllegalTransitionError(f"job {job.id} has ended already: it is {job.state}")


def wants_suites(spec: AnySpec) -> bool:
    """Whether a spec names suites, which must be in the store then."""
    return isinstance(spec, EvaluateSpec) or isinstance(spec.then, ThenGate)
