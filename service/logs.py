"""Structured logs: one JSON object a line in HOME/logs/server.log, with whatever `extra` a record carries (job,
attempt, method).
"""

from __future__ import annotations

import json
import logging
import logging.handlers
from pathlib import Path

LOG_FOLDER = "logs"
LOG_NAME = "server.log"
MAX_BYTES = 32 * 2**20
KEPT_FILES = 5

_PLAIN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonFormatter(logging.Formatter):
    """One line per record: time (seconds since the epoch), level, logger, message, extras, and a traceback as one
    text.
    """

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, object] = {
            "time": round(record.created, 3),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        entry.update({name: value for name, value in vars(record).items() if name not in _PLAIN})
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str, ensure_ascii=False)


def open_log(home: Path, level: int = logging.INFO) -> logging.Handler:
    """Sends all of this package's records to the data folder's log, which rotates. The caller closes it with
    `close_log`.
    """
    folder = home / LOG_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    handler = logging.handlers.RotatingFileHandler(
        folder / LOG_NAME, maxBytes=MAX_BYTES, backupCount=KEPT_FILES, encoding="utf-8"
    )
    handler.setFormatter(JsonFormatter())
    logging.raiseExceptions = False  # on a full disk each line would be a traceback on stderr
    logger = logging.getLogger("posttrain")
    logger.addHandler(handler)
    logger.setLevel(level)
    return handler


def close_log(handler: logging.Handler) -> None:
    logging.getLogger("posttrain").removeHandler(handler)
    handler.close()
