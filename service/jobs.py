"""Creating and cancelling jobs: the spec is validated, every reference in it checked and pinned, then the job is queued.

An alias or `latest` in a spec is replaced by the version that it names now, so that what was checked is what runs,
however long the job waits. A job whose references are wrong is never created.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from posttrain.engine.spec import (
    AnySpec,
    EvaluateSpec,
    IftSpec,
    SftSpec,
    ThenGate,
    VersionEvalTemplate,
    canonical_json,
    parse_spec,
)
from posttrain.registry import datasets, versions
from posttrain.registry.errors import BadRefError, InvalidArgumentError, NotFoundError, RegistryError
from posttrain.registry.store import Transaction
from posttrain.registry.tables import JobRecord
from posttrain.service import lifecycle, states
from posttrain.service.convert import to_dict
from posttrain.service.errors import FieldViolation, IllegalTransitionError, InvalidFieldError
from posttrain.service.names import check_text, invalid
from posttrain.service.proto import spec_pb2
from posttrain.service.states import JobEvent

Pinned = dict[str, Any]


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


# -- references -------------------------------------------------------------------------------------------------------


class References:
    """Checks the references of a spec and collects every one that is wrong, with the field that holds it."""

    def __init__(self, tx: Transaction, project: str) -> None:
        self._tx = tx
        self._project = project
        self._wrong: list[FieldViolation] = []

    def version(self, field: str, ref: str) -> str:
        try:
            return versions.get_version(self._tx, self._project, ref).ref
        except (BadRefError, NotFoundError) as error:
            return self._refuse(field, ref, error)

    def dataset(self, field: str, ref: str) -> str:
        try:
            return datasets.get_sealed(self._tx, self._project, ref).ref
        except (BadRefError, NotFoundError, InvalidArgumentError) as error:
            return self._refuse(field, ref, error)

    def _refuse(self, field: str, ref: str, error: RegistryError) -> str:
        self._wrong.append(FieldViolation(field, f"{error}; {error.hint}" if error.hint else str(error)))
        return ref

    def done(self) -> None:
        if self._wrong:
            raise InvalidFieldError(self._wrong)


def pin(tx: Transaction, project: str, spec: AnySpec, policies: Path) -> AnySpec:
    """The spec with every reference as a number.

    Raises:
        InvalidFieldError: names each field whose reference does not exist.
    """
    check = References(tx, project)
    if isinstance(spec, EvaluateSpec):
        changes: Pinned = {"version": check.version("version", spec.version)}
        if isinstance(spec.template, VersionEvalTemplate):
            pinned = check.version("template.version", spec.template.version)
            changes["template"] = spec.template.model_copy(update={"version": pinned})
    else:
        changes = {
            "base": check.version("base", spec.base),
            "data": [
                item.model_copy(update={"dataset": check.dataset(f"data[{index}].dataset", item.dataset)})
                for index, item in enumerate(spec.data)
            ],
        }
    check.done()
    return spec.model_copy(update=changes)


# -- creating ---------------------------------------------------------------------------------------------------------


def create(
    tx: Transaction, project: str, spec: AnySpec, policies: Path, request_id: str = "", parent_job: str = ""
) -> JobRecord:
    """A queued job; with a known request id and the same spec, the job that was made then.

    Raises:
        InvalidFieldError: a reference of the spec is wrong.
        AlreadyExistsError: the request id was used for another spec.
    """
    asked = canonical_json(spec)
    # Remembered by what was asked, not by what it was pinned to: an alias may have moved since.
    known = tx.recall(project, "SubmitJob", request_id, asked)
    if known:
        return tx.get_job(project, known)
    job = tx.create_job(project, pin(tx, project, spec, policies), parent_job=parent_job)
    tx.remember(project, "SubmitJob", request_id, asked, job.id)
    if isinstance(spec, IftSpec | SftSpec):
        tx.start_chain(project, job.id)
    return lifecycle.move(tx, job, JobEvent.ACCEPTED, "accept")


def preview(tx: Transaction, project: str, spec: AnySpec, policies: Path) -> AnySpec:
    """What `create` would queue; nothing is written. Raises as `create` does."""
    return pin(tx, project, spec, policies)


# -- cancelling -------------------------------------------------------------------------------------------------------


def cancel(tx: Transaction, project: str, job_id: str, etag: str = "") -> JobRecord:
    """Asks a job, or what is left of its chain, to stop.

    Raises:
        ConflictError: the etag is not the job's.
        IllegalTransitionError: there is nothing left to stop.
    """
    job = tx.get_job(project, job_id)
    if etag and etag != str(job.version):
        from posttrain.registry.errors import ConflictError

        raise ConflictError(f"job {job.id} has changed: its etag is {job.version}, not {etag}")
    if job.state == states.CANCELLING:
        return job
    if job.state not in states.TERMINAL:
        return lifecycle.cancel(tx, job)
    chain = tx.get_chain(job.id)
    if job.state == states.SUCCEEDED and chain is not None and chain.step not in lifecycle.CHAIN_OVER:
        return lifecycle.cancel_chain(tx, job, chain)
    raise IllegalTransitionError(f"job {job.id} has ended already: it is {job.state}")


def then_of(spec: AnySpec) -> ThenGate | None:
    """What a training job's chain does after registering."""
    if isinstance(spec, IftSpec | SftSpec) and isinstance(spec.then, ThenGate):
        return spec.then
    return None
