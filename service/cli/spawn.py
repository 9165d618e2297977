"""A server of one's own: started beside a command, on a free port of this machine, and stopped with it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from posttrain.service.cli.settings import SERVER_FILE, Settings, read_address
from posttrain.service.client import Client, ClientError

START_S: Final = 60.0
STOP_S: Final = 20.0
LOG_FILE: Final = "server.log"


@contextmanager
def running_server(settings: Settings) -> Generator[tuple[str, bool], None, None]:
    """The address of a server for this home, and whether it was started here (it is stopped at the end then).

    Raises:
        ClientError: an address was given and nothing answers there, or the new server did not come up.
    """
    if settings.given_address:
        is_serving(settings.given_address, must_answer=True)
        yield settings.given_address, False
        return
    written = read_address(settings.home)
    if written and is_serving(written):
        yield written, False
        return
    process = _start(settings.home)
    try:
        yield _wait_for(process, settings.home), True
    finally:
        _stop(process)


def is_serving(address: str, must_answer: bool = False) -> bool:
    """Whether a server answers at the address, and is healthy."""
    try:
        with Client(address) as client:
            return client.check_health()
    except ClientError:
        if must_answer:
            raise
        return False


def _start(home: Path) -> subprocess.Popen[bytes]:
    home.mkdir(parents=True, exist_ok=True)
    # -P: modules are not looked for in the folder that the user happens to stand in.
    program = [sys.executable, "-P", "-m", "posttrain.service.cli"]
    command = [*program, "serve", "--home", str(home), "--address", "127.0.0.1:0"]
    # Whatever an earlier server wrote is not this one's address.
    (home / SERVER_FILE).unlink(missing_ok=True)
    with open(home / LOG_FILE, "ab") as log:
        # A session of its own: Ctrl-C is ours to handle, and the server is stopped in order.
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )


def _wait_for(process: subprocess.Popen[bytes], home: Path) -> str:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise _not_up(home, f"the server ended at once, with exit code {process.returncode}")
        address = read_address(home)
        if address and is_serving(address):
            return address
        time.sleep(0.1)
    raise _not_up(home, f"the server did not answer within {START_S:.0f}s")


def _not_up(home: Path, message: str) -> ClientError:
    log = home / LOG_FILE
    tail = log.read_bytes()[-2000:].decode("utf-8", "replace").strip().splitlines()[-8:]
    return ClientError("UNAVAILABLE", "SERVER_NOT_UP", "\n".join([message, *tail]), hint=f"see {log}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
