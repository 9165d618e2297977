"""Sealing: every row of an upload is checked, and the version is closed for ever.

What is sealed is the upload as it is, or, where rows are skipped, deduplicated or held out, a file of the rows that
stay, so that nothing behind sealing needs to know. What was left out is recorded with the version.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from sqlmodel import func, select

from posttrain.engine.data.partition import SeenDigests, content_digest, is_held_out
from posttrain.engine.data.rows import SourceFile
from posttrain.engine.data.validate import DatasetReport, OnBadRow, RowChecker, lines_of
from posttrain.registry.artifacts import Blob, full_disk_named
from posttrain.registry.datasets import get_version
from posttrain.registry.errors import InvalidArgumentError, InvalidDatasetError, TamperedError
from posttrain.registry.refs import check_name
from posttrain.registry.store import Store
from posttrain.registry.tables import DatasetVersionRecord

HELD_OUT_SUFFIX = "-held-out"


@dataclass(frozen=True)
class SealOptions:
    """What is done with rows before they are sealed.

    `held_out` is the share of prompts that become a dataset of their own, NAME-held-out; 0: none. `files` says which
    files an upload was made of, so that problems name them.
    """

    on_bad_row: OnBadRow = "fail"
    deduplicate: bool = False
    held_out: float = 0.0
    seed: int = 0
    files: tuple[SourceFile, ...] = ()

    @property
    def changes_rows(self) -> bool:
        return self.on_bad_row == "skip" or self.deduplicate or self.held_out > 0


def seal(
    store: Store, project: str, ref: str, options: SealOptions | None = None, actor: str = ""
) -> DatasetVersionRecord:
    """Validates every row and makes the version immutable. Sealing a sealed version changes nothing.

    Raises:
        NotFoundError: no such version.
        InvalidDatasetError: rows cannot be used; `problems` names them, and the version stays unsealed. With
            `on_bad_row: skip` only if no row can.
        InvalidArgumentError: the files do not have the upload's rows, or one side of the split would be empty.
        TamperedError: the stored bytes are not those that were uploaded.
    """
    options = options or SealOptions()
    with store.read() as tx:
        record = get_version(tx, project, ref)
    if record.sealed:
        return record
    held_out_name = check_name(record.name + HELD_OUT_SUFFIX, "dataset") if options.held_out else ""
    sieve = _Sieve(record, options)
    blob, held_out = Blob(record.sha256, record.num_bytes), None
    with open(store.artifacts.path(record.sha256), "rb") as file:
        if not options.changes_rows:
            for _ in sieve.kept(file):
                pass
        else:
            temporary = store.artifacts.temporary_path()
            try:
                with full_disk_named("sealing a dataset"), open(temporary, "xb") as aside:
                    blob = store.artifacts.add_stream(sieve.kept(file, aside))
                if options.held_out:
                    held_out = store.artifacts.add_file(temporary)
            finally:
                temporary.unlink(missing_ok=True)
    report = sieve.report
    with store.transaction(actor) as tx:
        record = get_version(tx, project, record.ref)
        if record.sealed:
            return record
        common: dict[str, Any] = {
            "format": report.format,
            "sealed": True,
            "sealed_time": tx.now,
            "notes": list(report.notes),
        }
        facts = sieve.facts()
        if held_out is not None:
            key = (DatasetVersionRecord.project == project, DatasetVersionRecord.name == held_out_name)
            newest = tx.session.exec(select(func.max(DatasetVersionRecord.number)).where(*key)).one()
            aside_record = DatasetVersionRecord(
                project=project, name=held_out_name, number=(newest or 0) + 1, num_rows=sieve.num_held_out,
                num_bytes=held_out.num_bytes, sha256=held_out.sha256, source=record.source, created=tx.now,
                sealing={"held_out_of": record.ref, "seed": options.seed}, **common,
            )  # fmt: skip
            tx.add(aside_record)
            tx.audit(project, "dataset.seal", aside_record.ref, {"sha256": held_out.sha256, "of": record.ref})
            facts["held_out"] = aside_record.ref
        for name, value in common.items():
            setattr(record, name, value)
        record.num_rows = sieve.num_kept
        record.sha256, record.num_bytes = blob.sha256, blob.num_bytes
        record.sealing = facts
        tx.add(record)
        said: dict[str, Any] = {
            name: facts[name] for name in ("num_skipped", "num_duplicates", "held_out") if name in facts
        }
        tx.audit(project, "dataset.seal", record.ref, {"sha256": record.sha256, "rows": record.num_rows, **said})
        return record


class _Sieve:
    """Reads an upload once: checks rows, drops those that are to be dropped, and counts."""

    def __init__(self, record: DatasetVersionRecord, options: SealOptions) -> None:
        self._record = record
        self._options = options
        self._checker = RowChecker(options.files)
        self.num_kept = self.num_held_out = self.num_duplicates = 0
        self.report: DatasetReport = self._checker.report()

    def kept(self, file: BinaryIO, aside: BinaryIO | None = None) -> Iterator[bytes]:
        """Lines to seal; those held out are written to `aside`. Ends with an error if the upload cannot be sealed."""
        options, seen = self._options, SeenDigests()
        for line, example in self._checker.rows(lines_of(file)):
            if options.deduplicate and not seen.add(content_digest(example)):
                self.num_duplicates += 1
                continue
            whole = line if line.endswith(b"\n") else line + b"\n"
            if aside is not None and options.held_out and is_held_out(example, options.held_out, options.seed):
                self.num_held_out += 1
                aside.write(whole)
            else:
                self.num_kept += 1
                yield whole
        if aside is not None:
            aside.flush()
        self.report = self._checker.report()
        self._check()

    def facts(self) -> dict[str, Any]:
        """What is recorded of rows that were left out; empty if none could be."""
        if not self._options.changes_rows:
            return {}
        return {
            "uploaded_sha256": self._record.sha256,
            "num_skipped": self.report.num_problems,
            "skipped": [str(problem)[:500] for problem in self.report.problems],
            "num_duplicates": self.num_duplicates,
            "seed": self._options.seed,
        }

    def _check(self) -> None:
        options, report, ref = self._options, self.report, self._record.ref
        if report.sha256 != self._record.sha256:
            raise TamperedError(f"the bytes of {ref} are not those that were uploaded")
        num_lines = sum(item.num_rows for item in options.files)
        if options.files and num_lines != self._checker.num_lines:
            raise InvalidArgumentError(
                f"{ref} has {self._checker.num_lines} rows, and its files are said to have {num_lines}", "files"
            )
        num_good = self.num_kept + self.num_held_out + self.num_duplicates
        if not report.is_valid and (options.on_bad_row == "fail" or not num_good):
            first = report.problems[0]
            more = f" (and {report.num_problems - 1} more)" if report.num_problems > 1 else ""
            raise InvalidDatasetError(f"{ref}: {first}{more}", report.problems)
        if options.held_out and not (self.num_kept and self.num_held_out):
            side = "held out" if self.num_kept else "left to train on"
            raise InvalidArgumentError(
                f"{ref}: of {self.num_kept + self.num_held_out} rows none would be {side}",
                "held_out",
                "rows with one prompt stay together: give another share or seed, or hold out rows of your choice",
            )
