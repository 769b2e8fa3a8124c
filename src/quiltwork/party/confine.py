"""Seal a process off, so that it can read its own fragment and nobody else's.

After ``confine(read=R, write=W)`` the process, for good, opens

    for reading   what is below R, W and the interpreter's own files (see :func:`interpreter_roots`)
    for writing   what is below W, and /dev/null

and gets ``PermissionError`` elsewhere (for hard links and moves the kernel says EXDEV, an ``OSError``). Two
levels, strongest first; the result says which one holds:

*landlock*: the Linux kernel refuses (Landlock, kernel 5.13 and later), whatever code asks: Python, a native
library, a child process. TCP is refused from ABI 4 (kernel 6.7), abstract Unix sockets from ABI 6 (6.12). Not
covered: what was open before the call; threads started before the call; names, sizes and times of files
elsewhere; UDP and named Unix sockets, which only the guard below refuses, in this interpreter; and a process
with root's capabilities, which has other ways than opening files.

*audit-hook*: where Landlock is missing, a guard inside the Python interpreter (:func:`sys.addaudithook`)
refuses. It stops mistakes, not adversaries: native code passes it (Parquet files are opened by native code),
so does Python code that sets out to. Starting other programs is refused where the interpreter reports it,
since the guard does not follow them. ``os.open`` hides the directory handle that a path is relative to, so
such a path is judged, and mostly refused, as if relative to the working directory.

Both judge by the place: what is made or moved below R later is readable.
Source: https://docs.kernel.org/userspace-api/landlock.html and include/uapi/linux/landlock.h.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import site
import socket
import stat
import struct
import sys
import sysconfig
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

import quiltwork
from quiltwork.errors import FragmentError, InvalidOption

Level = Literal["landlock", "audit-hook"]

# access rights on files: (bit, first ABI that knows it)
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_MAKE_CHAR, _MAKE_BLOCK = 1 << 6, 1 << 11
_REFER, _TRUNCATE, _IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
_FS_BITS = {1: 13, 2: 14, 3: 15, 4: 15}  # number of rights by ABI; 16 from ABI 5 on
_ON_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
_READ = _READ_FILE | _READ_DIR
_DEVICE = _READ_FILE | _WRITE_FILE | _TRUNCATE | _IOCTL_DEV
_EVERYTHING = (1 << 16) - 1
_WRITE = _EVERYTHING & ~(_EXECUTE | _MAKE_CHAR | _MAKE_BLOCK | _IOCTL_DEV)  # no device nodes: a way round
_TCP = 0b11  # bind and connect
_ABSTRACT_UNIX = 0b1

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION_FLAG = 1
_PATH_BENEATH = 1
_NO_NEW_PRIVS = 38

_SYSTEM = (
    "/usr",
    "/lib",
    "/lib32",
    "/lib64",
    "/bin",
    "/sbin",
    "/etc",
    "/proc",
    "/sys",
    "/System",
    "/Library",
)
_TOO_WIDE = tuple(Path(path) for path in ("/", "/home", "/root", "/tmp", "/var", "/mnt", "/media", "/srv"))
_PLAIN_DEVICES = ("null", "zero", "full", "random", "urandom")
_ACCELERATORS = ("nvidia*", "kfd", "dri")


@dataclass(frozen=True)
class Confinement:
    """Which level holds, and what it covers on this machine."""

    level: Level
    detail: str


def interpreter_roots() -> tuple[Path, ...]:
    """What a confined process may read besides its own: Python, quiltwork and the system's directories.

    Symbolic links are followed. Neither the working directory nor ``sys.path`` is included, since others may
    have fragments there. Of a prefix as wide as ``/`` or ``/home`` only the library directories count. Of
    ``/dev``, where the disks are, only plain devices and accelerators are readable.
    """
    prefixes = [sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix]
    libraries = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    libraries += [*site.getsitepackages(), *([site.getusersitepackages()] if site.ENABLE_USER_SITE else [])]
    program = [os.path.dirname(os.path.realpath(sys.executable))] if sys.executable else []
    named = (*prefixes, *libraries, *program, *quiltwork.__path__, *_SYSTEM)
    resolved = (Path(os.path.realpath(path)) for path in named if path)
    return tuple(dict.fromkeys(path for path in resolved if path.is_dir() and path not in _TOO_WIDE))


def landlock_abi() -> int:
    """The kernel's Landlock version; 0 where there is none (other systems, old kernels, some sandboxes)."""
    if sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64", "riscv64"):
        return 0
    return max(0, _syscall(_CREATE_RULESET, None, 0, _VERSION_FLAG))


def confine(
    read: Sequence[str | os.PathLike[str]],
    write: Sequence[str | os.PathLike[str]],
    *,
    level: Level | None = None,
) -> Confinement:
    """Confine this process and its children. There is no way back.

    Call it before threads are started: Landlock binds the calling thread and the threads it starts later.
    (The guard of the audit-hook level binds all threads.) Imports that look for a temporary directory, as
    torch does where dill is installed, come before the call too, or find one of the party's own in TMPDIR and
    in ``write``. Do not list a temporary directory that parties share.

    Args:
        read: files and directories to read, besides :func:`interpreter_roots`.
        write: files and directories to read and write. What is written under a temporary name and renamed
            needs its parent directory here.
        level: insist on one level; by default the strongest that this machine has.

    Raises:
        InvalidOption: a path does not exist, or the wanted level is not to be had here.
        FragmentError: other Python threads run already, or the kernel refuses the rules.
    """
    readable, writable = _existing(read), _existing(write)
    abi = landlock_abi()
    if level == "landlock" and not abi:
        raise InvalidOption("level 'landlock'", why="this kernel does not offer it", mend="Use Linux 5.13 or later.")
    opened = map(str, (*readable, *writable, *interpreter_roots(), *_devices()))
    guard = _Guard(tuple(opened), tuple(map(str, writable)), files=level == "audit-hook" or not abi)
    if guard.files:
        sys.addaudithook(guard)
        return Confinement("audit-hook", "a guard inside Python, which native code passes")
    _require_single_thread()
    native = len(os.listdir("/proc/self/task")) - 1
    try:
        _restrict(abi, _rules(readable, writable))
    except OSError as error:
        raise FragmentError(
            "confinement",
            why=f"the kernel refused it ({error.strerror})",
            mend="Ask for level='audit-hook', which is weaker, or run each party on a machine of its own.",
        ) from None
    sys.addaudithook(guard)
    return Confinement("landlock", _detail(abi, native))


def _existing(paths: Iterable[str | os.PathLike[str]]) -> tuple[Path, ...]:
    resolved = tuple(Path(os.path.realpath(path)) for path in paths)
    for path in resolved:
        if not path.exists():
            raise InvalidOption(f"path '{path}'", why="a rule needs something that exists", mend="Create it first.")
    return resolved


def _require_single_thread() -> None:
    names = [thread.name for thread in threading.enumerate() if thread is not threading.current_thread()]
    if names:
        raise FragmentError(
            f"confinement with running threads ({', '.join(names)})",
            why="Landlock would not bind them",
            mend="Confine the process before it starts threads.",
        )


def _detail(abi: int, native: int) -> str:
    parts = [f"Landlock ABI {abi}"]
    parts.append("TCP refused by the kernel" if abi >= 4 else "TCP refused inside Python only")
    parts.append("UDP and named Unix sockets refused inside Python only")
    if native:
        parts.append(f"{native} native thread(s) started earlier are not bound")
    return "; ".join(parts)


def _devices() -> Iterator[Path]:
    yield from (Path("/dev", name) for name in _PLAIN_DEVICES)
    for pattern in _ACCELERATORS:
        yield from sorted(Path("/dev").glob(pattern))


# Landlock ------------------------------------------------------------


def _rules(readable: Sequence[Path], writable: Sequence[Path]) -> Iterator[tuple[Path, int]]:
    """Pairs of a path and the rights below it; rules on one path add up."""
    yield from ((path, _READ) for path in readable)
    yield from ((path, _WRITE) for path in writable)
    yield from ((path, _READ | _EXECUTE) for path in interpreter_roots())
    yield Path("/dev"), _READ_DIR
    yield from ((path, _DEVICE | (_READ_DIR if path.is_dir() else 0)) for path in _devices() if path.exists())


def _restrict(abi: int, rules: Iterable[tuple[Path, int]]) -> None:
    """Hand the rules to the kernel; rights that its ABI does not know are left out.

    ``struct landlock_ruleset_attr`` is up to three u64 (files, network, scope), as many as the ABI knows;
    ``struct landlock_path_beneath_attr`` is a packed u64 and s32.
    """
    handled = (1 << _FS_BITS.get(abi, 16)) - 1
    fields = [handled, *([_TCP] if abi >= 4 else []), *([_ABSTRACT_UNIX] if abi >= 6 else [])]
    attributes = struct.pack(f"={len(fields)}Q", *fields)
    ruleset = _checked(_syscall(_CREATE_RULESET, attributes, len(attributes), 0))
    try:
        for path, rights in rules:
            _add_rule(ruleset, path, rights & handled)
        _checked(ctypes.CDLL(None, use_errno=True).prctl(_NO_NEW_PRIVS, *map(ctypes.c_ulong, (1, 0, 0, 0))))
        _checked(_syscall(_RESTRICT_SELF, ruleset, 0))
    finally:
        os.close(ruleset)


def _add_rule(ruleset: int, path: Path, rights: int) -> None:
    handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        rights &= ~0 if stat.S_ISDIR(os.fstat(handle).st_mode) else _ON_FILES
        if rights:
            _checked(_syscall(_ADD_RULE, ruleset, _PATH_BENEATH, struct.pack("=Qi", rights, handle), 0))
    finally:
        os.close(handle)


def _syscall(number: int, *arguments: int | bytes | None) -> int:
    kinds = (ctypes.c_long(value) if isinstance(value, int) else value for value in arguments)
    return int(ctypes.CDLL(None, use_errno=True).syscall(ctypes.c_long(number), *kinds))


def _checked(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


# The guard inside Python ------------------------------------------------------------

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# event: (argument that is a changed path, argument that is the directory handle it is relative to)
_CHANGES: dict[str, list[tuple[int, int | None]]] = {
    "os.mkdir": [(0, 2)],
    "os.rmdir": [(0, 1)],
    "os.remove": [(0, 1)],
    "os.rename": [(0, 2), (1, 3)],
    "os.link": [(0, 2), (1, 3)],
    "os.symlink": [(1, 2)],
    "os.truncate": [(0, None)],
    "os.chmod": [(0, 2)],
    "os.chown": [(0, 3)],
    "os.utime": [(0, 3)],
}
_STARTS = {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "pty.spawn"}
_SENDS = {"socket.connect", "socket.bind", "socket.sendto", "socket.sendmsg"}
_RESOLVES = {"socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr", "socket.getnameinfo"}


@dataclass(frozen=True)
class _Guard:
    """The audit hook: called with each event of the interpreter, it raises for those refused.

    Where the kernel judges files and programs (``files`` false), only sockets are left to judge here.
    """

    readable: tuple[str, ...]
    writable: tuple[str, ...]
    files: bool

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in _SENDS:
            self._judge_socket(*arguments[:2])
        elif event in _RESOLVES:
            _deny(f"{event}: name resolution leaves the machine")
        elif self.files:
            self._judge_file(event, arguments)

    def _judge_file(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            changes = bool(flags & _WRITING) and path != os.devnull
            self._require(path, self.writable if changes else self.readable)
        elif event in ("os.listdir", "os.scandir"):
            self._require(os.curdir if arguments[0] is None else arguments[0], self.readable)
        elif event in ("os.remove", "os.rmdir") and arguments[1] == -1 and not os.path.lexists(arguments[0]):
            return  # the system answers that there is nothing, which clean-up code expects
        elif event in _CHANGES:
            for path, handle in _CHANGES[event]:
                self._require(arguments[path], self.writable, -1 if handle is None else arguments[handle])
        elif event in _STARTS:
            _deny(f"{event}: the guard would not follow another program")

    def _judge_socket(self, sock: socket.socket, address: Any) -> None:
        if address is None:  # on a connected socket, whose connection was judged
            return
        if sock.family != getattr(socket, "AF_UNIX", None) or os.fsencode(address)[:1] in (b"", b"\0"):
            _deny("socket: a network address or an abstract name")
        self._require(address, self.writable)

    def _require(self, path: Any, roots: tuple[str, ...], handle: int = -1) -> None:
        """Refuse a path outside ``roots``; a file descriptor was judged when it was opened."""
        if not _is_path(path):
            return
        base = os.curdir if handle == -1 else f"/proc/self/fd/{handle}"
        real = os.path.realpath(os.path.join(base, os.fsdecode(path)))
        if not any(real == root or real.startswith(root + os.sep) for root in roots):
            raise PermissionError(errno.EACCES, "outside the confinement", real)


def _is_path(value: object) -> bool:
    return isinstance(value, str | bytes | os.PathLike)


def _deny(what: str) -> NoReturn:
    raise PermissionError(errno.EACCES, f"{what} (refused by the confinement)")
