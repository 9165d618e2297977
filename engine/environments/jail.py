"""Runs one Python snippet where it can reach nothing; the program that `snippet.py` starts. Imports the standard
library only, and nothing of this package: it is run as a file, by a bare interpreter.

    argv     seconds of CPU time, seconds in all, descriptor for the status
    stdin    the code
    stdout   what it prints, and the last line of a traceback
    status   "ok" once the code is about to run; else why it cannot

A first process makes new network, mount, process, IPC and host name namespaces, and one of users unless it is root. Its
child, the first process of the new ones, sees a file system in memory with Python's library and the system's shared
ones, read-only; is nobody, if it was root; has no capability; cannot start a process, open a socket or make a namespace
(seccomp); and has limits. The first process ends it when the time is over, and cannot be seen from inside.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import random
import resource
import signal
import struct
import sys
import sysconfig
import time
import traceback

NOBODY = 65534
MEMORY_BYTES, FILE_BYTES, DISK = 512 * 2**20, 2**20, "size=8m,nr_inodes=1000,mode=755"
LIMITS = {
    resource.RLIMIT_AS: MEMORY_BYTES,
    resource.RLIMIT_FSIZE: FILE_BYTES,
    resource.RLIMIT_NOFILE: 32,
    resource.RLIMIT_NPROC: 16,
    resource.RLIMIT_CORE: 0,
    resource.RLIMIT_MEMLOCK: 0,
}
_LIBC = ctypes.CDLL(None, use_errno=True)
# linux/sched.h: NEWNS, NEWUTS, NEWIPC, NEWPID, NEWNET
NAMESPACES, NEW_USER = 0x00020000 | 0x04000000 | 0x08000000 | 0x20000000 | 0x40000000, 0x10000000
# linux/mount.h
_RDONLY, _NOSUID, _NODEV, _REMOUNT, _BIND, _REC, _PRIVATE = 1, 2, 4, 32, 4096, 16384, 1 << 18
_KEPT_FLAGS = {2: 2, 4: 4, 8: 8, 1024: 1024, 2048: 2048, 4096: 1 << 21}  # of statvfs, as mount calls them
_DETACH = 2
# linux/prctl.h
_SET_PDEATHSIG, _SET_SECCOMP, _CAPBSET_DROP, _SET_NO_NEW_PRIVS = 1, 22, 24, 38
_NEW_IN_ALL = (425, 428, 429, 430, 431, 432, 433, 438, 442)  # io_uring_setup, the new mount calls, pidfd_getfd
# What a snippet may not ask of the kernel: audit number of the machine, clone, pivot_root, and calls that are refused:
# socket, fork, vfork, execve, execveat, ptrace, personality, pivot_root, chroot, mount, umount2, add_key, request_key,
# keyctl, unshare, perf_event_open, open_by_handle_at, setns, process_vm_readv, process_vm_writev, bpf, userfaultfd,
# fanotify_init; and shared memory, semaphores and message queues, which no limit counts.
_MACHINES = {
    "x86_64": (
        0xC000003E, 56, 155,
        (41, 57, 58, 59, 322, 101, 135, 155, 161, 165, 166, 248, 249, 250, 272, 298, 304, 308, 310, 311, 321, 323, 300,
         *range(29, 32), *range(64, 72), 220, *range(240, 246)),
    ),
    "aarch64": (
        0xC00000B7, 220, 41,
        (198, 221, 281, 117, 92, 41, 51, 40, 39, 217, 218, 219, 97, 241, 265, 268, 270, 271, 280, 282, 262,
         *range(180, 198)),
    ),
}  # fmt: skip
_CLONE3, _CLONE_THREAD, _X32 = 435, 0x00010000, 0x40000000
_EPERM, _ENOSYS = 1, 38


def main() -> None:
    cpu_s, wall_s, status = int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
    code = sys.stdin.buffer.read()
    try:
        machine = _MACHINES[platform.machine()]
        is_root = os.geteuid() == 0
        _separate(is_root)
        asked = list[int]()
        signal.signal(signal.SIGTERM, lambda number, frame: asked.append(number))
        child = os.fork()
        if not child:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.setsid()  # a signal to its own group must not reach the first process
            _shut_in(_folders(), machine[2])
            if is_root:
                _leave_root()
            _check(_LIBC.prctl(_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "prctl")
            _limit(cpu_s)
            _give_up_rights(machine)
    except Exception as error:  # whatever it is, the code does not run
        os.write(status, f"{type(error).__name__}: {error}".encode())
        os._exit(99)
    if child:
        os.close(status)
        os._exit(_watch(child, wall_s, asked))
    os.write(status, b"ok")
    _run(code)


# -- inside ------------------------------------------------------------------------------------------------------------


def _run(code: bytes) -> None:
    """Does not return."""
    os.closerange(3, 256)
    os.environ.clear()
    random.seed(0)
    sys.argv, result = [""], 0
    sys.path = [entry for entry in sys.path if os.path.isdir(entry)]
    try:
        exec(compile(code, "<snippet>", "exec"), {"__name__": "__main__"})
    except SystemExit as stop:
        result = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException as error:
        with contextlib.suppress(Exception):
            sys.stdout.write(traceback.format_exception_only(error)[-1].strip() + "\n")
        result = 1
    with contextlib.suppress(Exception):
        sys.stdout.flush()
    os._exit(result & 255)


def _shut_in(folders: list[str], pivot_root: int) -> None:
    """A root in memory, at the present folder, with these folders where they were."""
    root = os.getcwd()
    _mount("none", "/", "", _REC | _PRIVATE)
    _mount("none", root, "tmpfs", _NOSUID | _NODEV, DISK)
    for path in folders:
        place = root + path
        os.makedirs(place, exist_ok=True)
        _mount(path, place, "", _BIND | _REC)
        flags = sum(new for old, new in _KEPT_FLAGS.items() if os.statvfs(place).f_flag & old)
        _mount("none", place, "", _REMOUNT | _BIND | _RDONLY | flags)
    os.chdir(root)
    _check(_LIBC.syscall(pivot_root, b".", b"."), "pivot_root")  # the old root now lies over the new one
    _check(_LIBC.umount2(b".", _DETACH), "umount2")
    os.chdir("/")
    os.mkdir("/work")
    os.chmod("/work", 0o777)
    os.chdir("/work")


def _leave_root() -> None:
    """Root's files stay root's, and limits of processes do not hold for root."""
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)


def _limit(cpu_s: int) -> None:
    for name, limit in {**LIMITS, resource.RLIMIT_CPU: cpu_s}.items():
        hard = resource.getrlimit(name)[1]
        limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(name, (limit, limit))


def _give_up_rights(machine: tuple[int, int, int, tuple[int, ...]]) -> None:
    for capability in range(64):
        if _LIBC.prctl(_CAPBSET_DROP, capability, 0, 0, 0):
            break  # there are no more
    header, data = struct.pack("=Ii", 0x20080522, 0), bytes(24)
    _check(_LIBC.capset(header, data), "capset")
    _check(_LIBC.prctl(_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    program = _filter(machine)
    buffer = ctypes.create_string_buffer(program, len(program))
    described = ctypes.create_string_buffer(struct.pack("@HP", len(program) // 8, ctypes.addressof(buffer)))
    _check(_LIBC.prctl(_SET_SECCOMP, 2, ctypes.byref(described), 0, 0), "seccomp")


def _filter(machine: tuple[int, int, int, tuple[int, ...]]) -> bytes:
    """A seccomp program: EPERM for what is refused, and for a clone that makes no thread."""
    audit, clone, _, refused = machine
    load, equal, at_least, any_bit, give = 0x20, 0x15, 0x35, 0x45, 0x06
    allow, kill, error = 0x7FFF0000, 0x80000000, 0x00050000

    def step(operation: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
        return struct.pack("=HBBI", operation, if_true, if_false, value)

    steps = [step(load, 4), step(equal, audit, 1, 0), step(give, kill), step(load, 0)]
    steps += [step(at_least, _X32, 0, 1), step(give, error | _EPERM)]
    for number in (*refused, *_NEW_IN_ALL):
        steps += [step(equal, number, 0, 1), step(give, error | _EPERM)]
    # glibc asks for clone3 first and, told that there is none, for clone, whose flags a filter can read.
    steps += [step(equal, _CLONE3, 0, 1), step(give, error | _ENOSYS), step(equal, clone, 0, 3)]
    steps += [step(load, 16), step(any_bit, _CLONE_THREAD, 1, 0), step(give, error | _EPERM), step(give, allow)]
    return b"".join(steps)


# -- outside -----------------------------------------------------------------------------------------------------------


def _folders() -> list[str]:
    """What code needs to import from the standard library: its folder, and shared libraries."""
    library = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib")]
    found = dict.fromkeys(os.path.realpath(path) for path in library)
    for path in ("/lib", "/lib64", "/usr/lib", "/usr/lib64"):
        if os.path.isdir(path):
            found.setdefault(path)
    return list(found)


def _separate(is_root: bool) -> None:
    """New namespaces; whoever is not root needs one of users for the others."""
    uid, gid = os.geteuid(), os.getegid()
    _check(_LIBC.unshare(NAMESPACES | (0 if is_root else NEW_USER)), "unshare")
    if is_root:
        return
    for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        with open(f"/proc/self/{name}", "wb") as file:
            file.write(text.encode())


def _watch(child: int, wall_s: float, asked: list[int]) -> int:
    """How it ended, as a shell says it; 124 if the time was over, or its end `asked` for."""
    for descriptor in range(3):
        os.close(descriptor)  # what the child prints ends when the child does
    deadline = time.monotonic() + wall_s
    while True:
        done, code = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(code) if os.WIFEXITED(code) else 128 + os.WTERMSIG(code)
        if asked or time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return 124
        time.sleep(0.002)


def _mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    texts = [text.encode() if text else None for text in (source, target, kind)]
    result = _LIBC.mount(*texts, ctypes.c_ulong(flags), data.encode() if data else None)
    _check(result, f"mount {target}")


def _check(result: int, what: str) -> None:
    if result:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")


if __name__ == "__main__":
    main()
