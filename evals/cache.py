"""Answers on disk, so that a parent or a champion is asked once. Files, written atomically; a damaged entry is a miss.

The key covers everything that an answer depends on: weights, tokenizer, template, rendered prompt, settings, dtype and
package versions. Scores are not cached: a scorer is quick, and a stored score would outlive its scorer.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from posttrain.engine.events import write_atomic
from posttrain.engine.spec import canonical_json, sha256_text
from posttrain.evals.rows import Digest, Record, StopReason

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
)


class CachedAnswer(Record):
    """An answer as it was generated. `check` is the sha256 of the other fields."""

    key: Digest
    text: str
    stop_reason: StopReason
    num_tokens: int
    check: Digest

    @classmethod
    def of(cls, key: str, text: str, stop_reason: StopReason, num_tokens: int) -> CachedAnswer:
        fields: dict[str, Any] = {"key": key, "text": text, "stop_reason": stop_reason, "num_tokens": num_tokens}
        return cls(**fields, check=sha256_text(canonical_json(fields)))

    @property
    def is_sound(self) -> bool:
        return self.check == sha256_text(canonical_json(self.model_dump(exclude={"check"})))


@dataclass(frozen=True)
class AnswerKey:
    """What all answers of one evaluation share; `of` adds a prompt and its settings."""

    weights_digest: str
    tokenizer_digest: str
    template_digest: str
    dtype: str
    packages: dict[str, str]

    def of(self, prompt: str, ids: Sequence[int], settings: dict[str, Any]) -> str:
        """Hex sha256. The ids are covered beside the text: equal text can be encoded in two ways."""
        ids_digest = hashlib.sha256(",".join(map(str, ids)).encode()).hexdigest()
        return sha256_text(
            canonical_json(
                {
                    "weights": self.weights_digest,
                    "tokenizer": self.tokenizer_digest,
                    "template": self.template_digest,
                    "prompt": sha256_text(prompt),
                    "ids": ids_digest,
                    "settings": settings,
                    "dtype": self.dtype,
                    "packages": self.packages,
                }
            )
        )


class AnswerCache:
    """A folder of answers, one JSON file each, in 256 subfolders by the key's first two digits."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, key: str) -> CachedAnswer | None:
        """The answer, or None where there is none or the file is damaged."""
        try:
            answer = CachedAnswer.model_validate_json(self._path(key).read_bytes())
        except (FileNotFoundError, ValidationError):
            return None
        return answer if answer.key == key and answer.is_sound else None

    def put(self, answer: CachedAnswer) -> None:
        """Stores an answer, over a damaged one if need be.

        Raises:
            OSError: the disk is full or not writable.
        """
        path = self._path(answer.key)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, canonical_json(answer).encode())

    def _path(self, key: str) -> Path:
        return self._folder / key[:2] / f"{key}.json"


def tokenizer_digest(folders: Sequence[Path]) -> str:
    """Hex sha256 over the tokenizer's files in a model's folder and in its adapters' folders."""
    found = {
        f"{number}/{name}": hashlib.sha256((folder / name).read_bytes()).hexdigest()
        for number, folder in enumerate(folders)
        for name in TOKENIZER_FILES
        if (folder / name).is_file()
    }
    return sha256_text(json.dumps(found, sort_keys=True))
