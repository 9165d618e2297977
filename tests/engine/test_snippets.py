"""Python that a model wrote: what it prints comes back, and it reaches nothing and nobody."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from posttrain.engine.environments.snippet import MAX_OUTPUT_BYTES, Ran, Snippets
from posttrain.engine.environments.tools import Toolbox, ToolError, check_allowed, not_allowed
from posttrain.engine.errors import SpecError
from posttrain.engine.policy_options import ToolEnvironment
from tests.engine.pairs import spec_of


def can_shut_in() -> bool:
    try:
        Snippets(1.0)
    except SpecError:
        return False
    return True


pytestmark = pytest.mark.skipif(not can_shut_in(), reason="this machine takes no network from a process")


@pytest.fixture(scope="module")
def snippets() -> Snippets:
    return Snippets(2.0)


@pytest.fixture
def listener() -> Iterator[int]:
    """A port of this machine that takes connections."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


def test_what_is_printed_comes_back(snippets: Snippets) -> None:
    assert snippets.run("print(6 * 7)\nprint('é')").output == "42\né"
    ran = snippets.run("import json, math, collections, decimal, zlib\nprint(json.dumps([math.pi]))")
    assert (ran.output, ran.failure) == ("[3.141592653589793]", "")
    ran = snippets.run("print('before')\n1/0")
    assert (ran.output, ran.failure) == ("before\nZeroDivisionError: division by zero", "the code failed")
    assert snippets.run("def f(:").output.startswith("SyntaxError")
    assert snippets.run("raise SystemExit(3)").failure == "the code failed"
    assert snippets.run("").output == ""


def test_the_same_code_prints_the_same(snippets: Snippets) -> None:
    code = "import random\nprint({str(i) for i in range(50)}, random.random())"
    first = snippets.run(code)
    assert not first.failure
    assert snippets.run(code) == first


def test_no_network(snippets: Snippets, listener: int) -> None:
    with socket.create_connection(("127.0.0.1", listener)):
        pass  # from here it can be reached
    for family in ("AF_INET", "AF_INET6", "AF_UNIX", "AF_NETLINK", "AF_VSOCK"):
        said = snippets.run(f"import socket\nsocket.socket(socket.{family}, socket.SOCK_STREAM)").output
        assert said == "PermissionError: [Errno 1] Operation not permitted"
    said = snippets.run(f"import urllib.request\nurllib.request.urlopen('http://127.0.0.1:{listener}')").output
    assert "Operation not permitted" in said
    # Nor would a socket be of use: the network has no device but one that is down.
    assert snippets.run("import socket\nprint(len(socket.socketpair()))").output == "2"


def test_no_environment_and_no_file_of_the_worker(
    snippets: Snippets, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("POSTTRAIN_SECRET", "hush")
    (tmp_path / "key").write_text("hush")
    assert snippets.run("import os\nprint(dict(os.environ))").output == "{}"
    for path in (tmp_path / "key", Path(__file__), "/etc/passwd", "/proc/self/environ", f"/proc/{os.getpid()}/environ"):
        assert snippets.run(f"print(open({str(path)!r}).read())").output.startswith("FileNotFoundError")
    assert snippets.run("import torch").output.startswith("ModuleNotFoundError")
    assert snippets.run("import posttrain").output.startswith("ModuleNotFoundError")
    library = Path(os.__file__)
    said = snippets.run(f"open({str(library)!r}, 'a')").output
    assert said.startswith(("OSError: [Errno 30]", "PermissionError"))
    assert snippets.run("import os\nprint(os.getcwd(), os.listdir('.'), os.getpid())").output == "/work [] 1"
    held = "import os\nprint([fd for fd in range(64) if os.path.exists(f'/dev/fd/{fd}')], os.fstat(2).st_mode > 0)"
    assert snippets.run(held).output == "[] True"


def test_no_process_and_none_that_it_could_end(snippets: Snippets) -> None:
    for code in ("os.fork()", "os.execv('/bin/sh', ['sh'])", "os.posix_spawn('/bin/sh', ['sh'], {})", "os.unshare(0)"):
        assert snippets.run(f"import os\n{code}").failure == "the code failed"
    bomb = "import os\ntry:\n    while True:\n        os.fork()\nexcept OSError as error:\n    print(error)"
    assert snippets.run(bomb).output == "[Errno 1] Operation not permitted"
    assert snippets.run("import subprocess\nsubprocess.run(['true'])").output.startswith(("Permission", "FileNotFound"))
    assert snippets.run("import multiprocessing as m\nm.Process(target=print).start()").failure
    # Its own group is its own: the process that ends it when the time is over is not in it.
    assert snippets.run("import os\nos.kill(0, 9)\nprint(os.getpgid(0), os.getsid(0))") == Ran("1 1")
    counted = "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\nprint(libc.CALL, ctypes.get_errno())"
    for call in ("shmget(0, 1 << 20, 0o1600)", "semget(0, 9, 0o1600)", "msgget(0, 0o1600)"):
        assert snippets.run(counted.replace("CALL", call)).output == "-1 1"
    for target in {-1, os.getpid(), os.getppid()} - {1}:  # 1 is the snippet itself
        assert snippets.run(f"import os\nos.kill({target}, 9)").output.startswith("ProcessLookupError")
    assert (
        snippets.run("import threading\nt = threading.Thread(target=print, args=(1,))\nt.start()\nt.join()").output
        == "1"
    )


def test_no_new_rights(snippets: Snippets) -> None:
    calls = "import ctypes\nc = ctypes.CDLL(None, use_errno=True)\nprint({}, ctypes.get_errno())"
    for call in ("c.unshare(0x10000000)", "c.mount(b'none', b'/work', b'tmpfs', 0, None)", "c.chroot(b'/')"):
        assert snippets.run(calls.format(call)).output == "-1 1"
    assert snippets.run("import os\nos.setuid(0)").output.startswith(("PermissionError", "OSError"))
    assert "2" in snippets.run("import ctypes\nprint(ctypes.CDLL(None).prctl(21, 0, 0, 0, 0))").output, (
        "seccomp filters"
    )


def test_what_is_too_much_is_refused(snippets: Snippets) -> None:
    assert snippets.run("open('a', 'wb').write(b'x' * 2**21)").output.startswith("OSError: [Errno 27]")
    many = "for i in range(40):\n    open(f'f{i}', 'wb').write(b'x' * 10**6)"
    assert snippets.run(many).output.startswith("OSError: [Errno 28]")
    assert snippets.run("x = bytearray(2**30)").output == "MemoryError"
    assert snippets.run("files = [open('a', 'w') for _ in range(99)]").output.startswith("OSError: [Errno 24]")
    ran = snippets.run("while True:\n    print('x' * 1000)")
    assert ran.failure == "the code printed too much"
    assert len(ran.output) <= MAX_OUTPUT_BYTES
    assert snippets.run("import ctypes\nctypes.string_at(0)").failure == "the code failed"


@pytest.mark.parametrize(
    "code", ["while True: pass", "import time\ntime.sleep(99)", "print(1)\ninput()\nimport time\ntime.sleep(99)"]
)
def test_what_hangs_is_ended(code: str) -> None:
    started = time.monotonic()
    ran = Snippets(0.5).run("import signal\nfor n in (15, 2, 1): signal.signal(n, signal.SIG_IGN)\n" + code)
    assert "took more than" in ran.failure or "EOFError" in ran.output
    assert time.monotonic() - started < 30


def test_an_orphan_that_wants_to_live_is_ended(snippets: Snippets) -> None:
    """It printed too much, does not die with its parent, and is in no group that could be ended."""
    code = (
        "import ctypes, os, time\nctypes.CDLL(None).prctl(1, 0, 0, 0, 0)\n"
        "print('marked-orphan' + 'x' * 10**6, flush=True)\ntime.sleep(99)"
    )
    before = children()
    assert snippets.run(code).failure == "the code printed too much"
    assert children() == before


def children() -> set[int]:
    """Processes in other process namespaces than this one's."""
    own, found = os.stat("/proc/self/ns/pid").st_ino, set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if os.stat(entry / "ns" / "pid").st_ino != own:
                    found.add(int(entry.name))
            except OSError:
                continue
    return found


def test_several_run_beside_each_other(snippets: Snippets) -> None:
    said: dict[int, str] = {}
    threads = [
        threading.Thread(target=lambda i=i: said.update({i: snippets.run(f"print({i})").output})) for i in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert said == {i: str(i) for i in range(4)}


def test_where_nothing_can_be_shut_in_it_is_refused(tmp_path: Path) -> None:
    refusing = tmp_path / "refusing.py"
    refusing.write_text(
        "import os, sys\nos.write(int(sys.argv[3]), b'PermissionError: unshare: \\x1b[31mno')\nsys.exit(99)"
    )
    with pytest.raises(SpecError) as caught:
        Snippets(1.0, (sys.executable, str(refusing)))
    assert "network" in str(caught.value)
    assert "unshare: \\x1b[31mno" in str(caught.value)
    assert "user namespaces" in caught.value.hint
    silent = tmp_path / "silent.py"
    silent.write_text("")
    with pytest.raises(SpecError, match="did not run"):
        Snippets(1.0, (sys.executable, str(silent)))


def test_a_toolbox_tells_what_failed() -> None:
    box = Toolbox(ToolEnvironment(tools=["python"], timeout_s=2))
    assert box.call("python", {"code": "print('a\\x1b[31mb')"}, {}) == "a[31mb"
    assert box.call("python", {"code": "x = 1"}, {}) == "(nothing was printed)"
    with pytest.raises(ToolError, match="the code failed\nNameError"):
        box.call("python", {"code": "y"}, {})
    with pytest.raises(ToolError, match="code must be text"):
        box.call("python", {"code": 5}, {})


def test_it_needs_the_servers_word() -> None:
    spec = spec_of("grpo", environment={"type": "tools", "tools": ["calculator", "python"]})
    assert list(not_allowed(spec, True)) == []
    with pytest.raises(SpecError, match=r"environment.tools: the server does not let models run Python"):
        check_allowed(spec, False)
    for harmless in (spec_of("grpo"), spec_of("sft"), spec_of("ppo", environment={"type": "tools"})):
        check_allowed(harmless, False)
