"""Signatures of cached files: a folder has a secret that only its owner can read, so writing files into the folder is
not enough to make them count. HMAC-SHA256 (RFC 2104).
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

from posttrain.engine.spec import canonical_json

SECRET_FILE = "secret"
SECRET_BYTES = 32


def sign(secret: bytes, fields: dict[str, Any]) -> str:
    """Hex signature of the fields' canonical JSON."""
    return hmac.new(secret, canonical_json(fields).encode(), hashlib.sha256).hexdigest()


def is_signed(secret: bytes, fields: dict[str, Any], signature: str) -> bool:
    return hmac.compare_digest(signature, sign(secret, fields))


def secret_of(folder: Path) -> bytes:
    """The folder's secret, made by whoever comes first. A file of another length is none (anyone can sign with an empty
    one) and is replaced, so that what was signed with it counts no more.

    Raises:
        OSError: it can be neither read nor made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / SECRET_FILE
    if not path.exists():
        _put_secret(path, os.link)  # all of it or nothing, and never over another worker's
    if path.stat().st_size != SECRET_BYTES:
        _put_secret(path, os.replace)
    return path.read_bytes()


def _put_secret(path: Path, put: Callable[[Path, Path], None]) -> None:
    own = path.with_name(f".{SECRET_FILE}.{secrets.token_hex(8)}")
    descriptor = os.open(own, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(SECRET_BYTES))
            file.flush()
            os.fsync(file.fileno())
        put(own, path)
    except FileExistsError:
        pass  # another worker was first: its secret counts
    finally:
        own.unlink(missing_ok=True)
