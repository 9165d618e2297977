"""The server as a test runs it: `server_main.py HOME OPTIONS`. Options (JSON):

fake       workers run fake_worker.py instead of the engine
crash_at   the server kills itself, once per data folder, when it reaches this point
settings   fields of Settings
"""

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

from posttrain.service.core import Settings
from posttrain.service.executors.local import LocalExecutor
from posttrain.service.server import serve

home, options = Path(sys.argv[1]), json.loads(sys.argv[2])


def point(name: str) -> None:
    with open(home / "points", "a") as file:
        file.write(name + "\n")
    if name == options.get("crash_at"):
        mark = home / f"crashed-{name.replace(':', '-')}"
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)


settings = Settings(
    **{
        "poll_s": 0.05,
        "threads_per_worker": 1,
        "builtin_suites": False,
        "standby": False,
        **options.get("settings", {}),
    },
    point=point,
)
worker = (sys.executable, str(Path(__file__).with_name("fake_worker.py"))) if options.get("fake") else None
executor = LocalExecutor(1, worker) if worker else None
asyncio.run(serve(home, "127.0.0.1:0", settings=settings, executor=executor))
assert not {"torch", "transformers"} & set(sys.modules), "the server has imported torch"
