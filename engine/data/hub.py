"""Rows of a dataset on the Hugging Face hub, streamed. The `datasets` library is imported here and nowhere else: it
takes a second. It runs no code of a dataset.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from posttrain.engine.data.tables import json_line
from posttrain.engine.errors import DataError

if TYPE_CHECKING:
    from posttrain.engine.data.sources import HubSource

OFFLINE = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")


def hub_rows(source: HubSource, note: Callable[[str], None]) -> Iterator[bytes]:
    """Each row of one split as a line; columns that JSON cannot hold are left out, with a note.

    Raises:
        DataError: this machine is told to stay offline, the hub has no such dataset, configuration or split, or it
            cannot be read; the message has the library's reason.
    """
    told = next((name for name in OFFLINE if os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE")), "")
    if told:
        raise DataError(
            f"no such file or folder here; {source.name}: is on the hub, and {told} is set",
            hint="fetch it elsewhere, give the files",
        )
    try:
        yield from _rows(source, note)
    except DataError:
        raise
    except Exception as error:  # of a library and a network: whatever it is, it is told by name and not hidden
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:300]
        raise DataError(
            f"no such file or folder here; {source.name}, split {source.split}: cannot be read from the hub: {reason}",
            hint="check the name, --split, --config and the network, or give its files",
        ) from error


def _rows(source: HubSource, note: Callable[[str], None]) -> Iterator[bytes]:
    from datasets import load_dataset

    stream = load_dataset(
        source.name, source.config or None, split=source.split, revision=source.revision, streaming=True
    )
    left_out: set[str] = set()
    for row in stream:
        kept: dict[str, Any] = {}
        for name, value in row.items():
            if is_json(value):
                kept[name] = value
            elif name not in left_out:
                left_out.add(name)
                note(f"column {name!r:.80} ({type(value).__name__}) is left out")
        yield json_line(kept)


def is_json(value: Any) -> bool:
    """Whether a value is made of what JSON has."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            if not all(isinstance(key, str) for key in item):
                return False
            waiting += item.values()
        elif isinstance(item, list):
            waiting += item
        elif not (item is None or isinstance(item, str | bool | int | float)):
            return False
    return True
