"""Answers on disk, so that a parent or a champion is asked once. Files, written atomically; a damaged entry is a miss.

The key covers everything that an answer depends on: the version with all its files (config and tokenizer as well as
weights), template, rendered prompt, settings, dtype and package versions. Scores are not cached: a scorer is quick, and
a stored score would outlive its scorer. An entry is signed with a key that only its owner can read, so that writing
files into the folder is not enough to put words into a model's mouth.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from posttrain.engine.events import write_atomic
from posttrain.engine.signing import is_signed, secret_of, sign
from posttrain.engine.spec import canonical_json, sha256_text
from posttrain.evals.rows import Digest, Record, StopReason


class CachedAnswer(Record):
    """An answer as it was generated. `signature` is the HMAC-SHA256 (RFC 2104) of the other fields."""

    key: Digest
    text: str
    stop_reason: StopReason
    num_tokens: int
    signature: Digest


@dataclass(frozen=True)
class AnswerKey:
    """What all answers of one evaluation share; `of` adds a prompt and its settings."""

    manifest_digest: str
    template_digest: str
    dtype: str
    packages: dict[str, str]

    def of(self, prompt: str, ids: Sequence[int], settings: dict[str, Any]) -> str:
        """Hex sha256. The ids are covered beside the text: equal text can be encoded in two ways."""
        ids_digest = hashlib.sha256(",".join(map(str, ids)).encode()).hexdigest()
        return sha256_text(
            canonical_json(
                {
                    "manifest": self.manifest_digest,
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
        """Raises OSError: the folder's secret can be neither read nor made."""
        self._folder = folder
        self._secret = secret_of(folder)

    def get(self, key: str) -> CachedAnswer | None:
        """The answer, or None where there is none, or the file is damaged or signed by somebody else."""
        try:
            answer = CachedAnswer.model_validate_json(self._path(key).read_bytes())
        except (FileNotFoundError, ValidationError):
            return None
        fields = answer.model_dump(exclude={"signature"})
        return answer if answer.key == key and is_signed(self._secret, fields, answer.signature) else None

    def put(self, key: str, text: str, stop_reason: StopReason, num_tokens: int) -> None:
        """Stores an answer, over a damaged one if need be.

        Raises:
            OSError: the disk is full or not writable.
        """
        fields: dict[str, Any] = {"key": key, "text": text, "stop_reason": stop_reason, "num_tokens": num_tokens}
        answer = CachedAnswer(**fields, signature=sign(self._secret, fields))
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, canonical_json(answer).encode())

    def _path(self, key: str) -> Path:
        return self._folder / key[:2] / f"{key}.json"
