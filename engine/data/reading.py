"""From a sealed dataset to a job's encoded rows, by way of the token cache where there is one. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from posttrain.engine.checkpoint import sha256_file
from posttrain.engine.data.encoded import AnyRow, fit
from posttrain.engine.data.examples import AnyExample
from posttrain.engine.data.statistics import statistics_of
from posttrain.engine.data.token_cache import TokenCache, entry_key
from posttrain.engine.data.validate import iter_examples
from posttrain.engine.errors import DataError, DiskFullError, EmptyDatasetError, MaskedLabelsError, OverlongRowError
from posttrain.engine.events import Note
from posttrain.engine.spec import TrainSpec
from posttrain.engine.task import DatasetInput, ModelInput

NUM_SHOWN = 5
MIN_CACHED_BYTES = 32 * 2**10  # a smaller file is encoded in about the time that it takes to write an entry
_NOT_ENCODED = {
    "display_name", "seed", "timeout_s", "dtype", "base", "output", "data", "adapter", "duration", "optimizer",
    "batch", "checkpoint", "then", "held_out", "averaging", "memory", "trackers", "loss", "reference", "nll_weight",
    "centring", "rollout", "update", "rewards", "beta", "kl_correction", "max_failed_rewards", "kl", "score",
    "advantage", "value",
}  # fmt: skip
_NO_TOKENIZER = (".safetensors", ".safetensors.index.json", "generation_config.json", ".md")


@dataclass(frozen=True)
class RowReader:
    """Encodes the rows of one job.

    `encode` is called with an example, the dataset's name and the row's number, `report` with the name after the last
    one; both as in `methods/base.py`. `parts` is all that an encoding depends on beside the data, see `key_parts`.
    """

    encode: Callable[[AnyExample, str, int], AnyRow | None]
    report: Callable[[str], list[Note]]
    limit: int
    overlong: Literal["refuse", "truncate", "skip"]
    tell: Callable[[int, int], None]
    say: Callable[[Note], None]
    cache: TokenCache | None = None
    parts: dict[str, Any] | None = None

    def read(self, dataset: DatasetInput) -> Sequence[AnyRow]:
        """All rows, cut to the limit where that is wanted.

        Raises:
            DataError (and below): the file is not the sealed one; a row cannot be used; rows are too long; no rows.
        """
        path = Path(dataset.path)
        if not path.is_file():
            raise DataError(
                f"{dataset.ref}: there is no file {path.name}", hint="the dataset's file was moved or removed"
            )
        if self.cache is None or self.parts is None or path.stat().st_size < MIN_CACHED_BYTES:
            return self._in_memory(dataset)
        parts = {
            "ref": dataset.ref,
            "dataset": dataset.sha256,
            "format": dataset.format,
            "limit": self.limit,
            "overlong": self.overlong,
        }
        key = entry_key({**self.parts, **parts})
        found = self.cache.open(key, dataset.ref)
        if found is None:
            reason = "its encoded rows are gone from the disk"
            try:
                with self.cache.writer(key) as made:
                    made.notes = self._encode_all(dataset, made.add)
                found = self.cache.open(key, dataset.ref)
            except DiskFullError as error:
                reason = str(error)
            except OSError as error:  # without its path, which is the server's
                reason = f"its encoded rows cannot be kept on disk ({error.strerror or type(error).__name__})"
            if found is None:
                again = f"{dataset.ref}: {reason}; its rows are encoded again, into memory"
                self.say(Note(message=again, level="warning"))
                with suppress(DataError):  # forgets what was counted of the first pass; the second one counts all
                    self.report(dataset.ref)
                return self._in_memory(dataset)
        for note in found.notes:
            self.say(note)
        return found

    def _in_memory(self, dataset: DatasetInput) -> list[AnyRow]:
        rows: list[AnyRow] = []
        for note in self._encode_all(dataset, rows.append):
            self.say(note)
        return rows

    def _encode_all(self, dataset: DatasetInput, add: Callable[[AnyRow], None]) -> list[Note]:
        """Hands over each row that fits; what is to be said about them and about those that do not."""
        path = Path(dataset.path)
        if sha256_file(path) != dataset.sha256:
            raise DataError(
                f"{dataset.ref}: the file does not match the digest it was sealed with", hint="add the dataset again"
            )
        with open(path, "rb") as file:
            num_lines = sum(1 for _ in file)
        num_kept = num_cut = num_overlong = 0
        shown: list[str] = []

        def encoded() -> Iterator[AnyRow]:
            nonlocal num_kept, num_cut, num_overlong
            for num_read, (number, example) in enumerate(iter_examples(path, dataset.format), start=1):
                self.tell(num_read, num_lines)
                row = self.encode(example, dataset.ref, number)
                if row is None:
                    continue
                kept = fit(row, self.limit, self.overlong)
                if kept is None:
                    num_overlong += 1
                    if num_overlong <= NUM_SHOWN:
                        shown.append(f"row {row.number} ({row.longest})")
                else:
                    num_kept += 1
                    num_cut += kept.longest < row.longest
                    if not num_overlong or self.overlong == "skip":
                        add(kept)
                yield row

        found = statistics_of(encoded(), self.limit)
        notes = self.report(dataset.ref)
        if num_overlong and not (num_kept and self.overlong == "skip"):
            raise self._too_long(dataset, num_overlong, ", ".join(shown))
        if found is None:
            raise EmptyDatasetError(f"{dataset.ref}: no rows")
        if num_overlong:
            text = f"{dataset.ref}: {num_overlong} rows are longer than {self.limit} tokens and left out"
            notes.append(Note(message=text, level="warning"))
        if num_cut:
            text = f"{dataset.ref}: {num_cut} rows were cut to {self.limit} tokens"
            notes.append(Note(message=text, level="warning"))
        return [*notes, Note(message=f"{dataset.ref}: {found}")]

    def _too_long(self, dataset: DatasetInput, count: int, shown: str) -> DataError:
        what = f"{dataset.ref}: {count} rows are longer than {self.limit} tokens"
        if self.overlong == "skip":
            return EmptyDatasetError(
                f"{dataset.ref}: all {count} rows are longer than {self.limit} tokens",
                hint="raise batch.max_tokens up to the model's context",
            )
        if self.overlong == "truncate":
            return MaskedLabelsError(
                f"{what} and cut to that no trained token is left: {shown}",
                hint="raise batch.max_tokens up to the model's context, or set batch.overlong to skip",
            )
        return OverlongRowError(f"{what} and batch.overlong is refuse: {shown}")


def key_parts(
    spec: TrainSpec,
    base: ModelInput,
    template_digest: str,
    special_tokens: dict[str, str],
    stop_ids: Sequence[int],
    packages: dict[str, str],
) -> dict[str, Any] | None:
    """What an encoding depends on beside the data: options, the base's files but its weights, template, stop tokens,
    package versions. None where the base's files are not known. An option that is not known to be irrelevant counts.
    """
    if not base.files:
        return None
    names = [name for name in base.files if not name.endswith(_NO_TOKENIZER)]
    return {
        "spec": {name: value for name, value in spec.model_dump(mode="json").items() if name not in _NOT_ENCODED},
        # In the order of the folders: the last one with a tokenizer is read.
        "files": [[str(name).rpartition("/")[2], base.files[name]] for name in names],
        "template": [template_digest, special_tokens],
        "stop_ids": list(stop_ids),
        "packages": packages,
    }  # fmt: skip
