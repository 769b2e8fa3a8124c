"""Confinement, each case in a process of its own; without it the same code succeeds (negative control)."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from quiltwork.errors import FragmentError, InvalidOption
from quiltwork.party import confine as module
from quiltwork.party.confine import confine, interpreter_roots, landlock_abi

LANDLOCK = landlock_abi()
LEVELS = [
    pytest.param("landlock", marks=pytest.mark.skipif(not LANDLOCK, reason="no Landlock here")),
    "audit-hook",
]
OPEN = None  # negative control: not confined

PRELUDE = """
import ctypes, errno, os, socket, subprocess, sys, threading, tempfile, multiprocessing
from pathlib import Path
from quiltwork.errors import *
from quiltwork.party.confine import confine
base = Path({base!r})
mine, theirs, out = base / "mine", base / "theirs", base / "out"
level = {level!r}
def attempt(action):
    try:
        action()
    except PermissionError as error:
        assert error.errno == errno.EACCES or error.errno == errno.EPERM, error
        return "refused"
    return "done"
def seal():
    if level is not None:
        confine([mine], [out], level=level)
"""


@pytest.fixture
def base(tmp_path: Path) -> Path:
    for name in ("mine", "theirs", "out"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.txt").write_text(f"of {name}")
    (tmp_path / "mine" / "way-out").symlink_to(tmp_path / "theirs")
    return tmp_path


def run(base: Path, level: str | None, code: str, **environment: str) -> list[str]:
    """Words that the code prints in a process of its own, whose working directory holds the fragments."""
    script = PRELUDE.format(base=str(base), level=level) + textwrap.dedent(code)
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=base,
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"} | environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


READS = """
seal()
for path in (mine / "a.txt", out / "a.txt", theirs / "a.txt", mine / "way-out" / "a.txt",
             mine / ".." / "theirs" / "a.txt", Path("theirs/a.txt"), Path("/proc/self/cwd/theirs/a.txt"),
             Path("/proc/self/root" + str(theirs / "a.txt"))):
    print(attempt(path.read_text))
    print(attempt(lambda: os.close(os.open(path, os.O_RDONLY))))
"""


@pytest.mark.parametrize("level", [OPEN, *LEVELS])
def test_only_the_own_fragment_can_be_read(base: Path, level: str | None) -> None:
    outside = "done" if level is OPEN else "refused"
    assert run(base, level, READS) == ["done"] * 4 + [outside] * 12


LISTINGS = """
seal()
for path in (mine, theirs, base):
    print(attempt(lambda: os.listdir(path)))
    print(attempt(lambda: list(os.scandir(path))))
print(attempt(os.listdir))
"""


@pytest.mark.parametrize("level", [OPEN, *LEVELS])
def test_only_the_own_fragment_can_be_listed(base: Path, level: str | None) -> None:
    outside = "done" if level is OPEN else "refused"
    assert run(base, level, LISTINGS) == ["done"] * 2 + [outside] * 5


WRITES = """
seal()
allowed, null = out / "new", Path("/dev/null")
print(attempt(lambda: allowed.write_text("x")))
print(attempt(lambda: allowed.rename(out / "renamed")))
print(attempt(lambda: (out / "d" / "e").mkdir(parents=True)))
print(attempt(lambda: (out / "renamed").unlink()))
print(attempt(lambda: null.write_text("x")))
print("--")
for folder in (mine, theirs, base):
    print(attempt(lambda: (folder / "new").write_text("x")))
    print(attempt(lambda: (folder / "d").mkdir()))
    print(attempt(lambda: os.open(folder / "o", os.O_CREAT | os.O_WRONLY)))
    print(attempt(lambda: (folder / "l").symlink_to(out)))
print(attempt(lambda: (mine / "a.txt").open("a").close()))
print(attempt(lambda: os.rename(mine / "a.txt", mine / "b.txt")))
print(attempt(lambda: os.unlink(theirs / "a.txt")))
"""


@pytest.mark.parametrize("level", [OPEN, *LEVELS])
def test_writing_is_confined_to_the_output(base: Path, level: str | None) -> None:
    outside = "done" if level is OPEN else "refused"
    assert run(base, level, WRITES) == ["done"] * 5 + ["--"] + [outside] * 15
    if level is not OPEN:
        assert sorted(os.listdir(base / "mine")) == ["a.txt", "way-out"]
        assert os.listdir(base / "theirs") == ["a.txt"]


LINK_IN = """
seal()
try:
    print(attempt(lambda: os.link(theirs / "a.txt", out / "stolen")))
except OSError as error:
    print("refused" if error.errno == errno.EXDEV else error)
print(attempt(lambda: (out / "link").symlink_to(theirs / "a.txt")))
print(attempt((out / "link").read_text))
"""


@pytest.mark.parametrize("level", [OPEN, *LEVELS])
def test_files_cannot_be_linked_in(base: Path, level: str | None) -> None:
    hard, _, through = run(base, level, LINK_IN)
    if level is OPEN:
        assert (hard, through) == ("done", "done")
    else:
        assert (hard, through) == ("refused", "refused")
        assert not (base / "out" / "stolen").exists()


WHOLE_WRITES = """
from quiltwork.files import new_directory, write_file
seal()
with new_directory(out / "contribution") as partial:
    (partial / "payload").write_text("x")
write_file(out / "summary", "x")
try:
    write_file(theirs / "summary", "x")
except StorageError as error:
    print("refused" if "not permitted" in error.why else error)
"""


@pytest.mark.parametrize("level", LEVELS)
def test_the_atomic_writers_work_and_name_the_refusal(base: Path, level: str) -> None:
    assert run(base, level, WHOLE_WRITES) == ["refused"]
    assert sorted(os.listdir(base / "out")) == ["a.txt", "contribution", "summary"]


NETWORK = """
server = socket.create_server(("127.0.0.1", 0))
port = server.getsockname()[1]
named = socket.socket(socket.AF_UNIX); named.bind(str(theirs / "door")); named.listen()
abstract = socket.socket(socket.AF_UNIX); abstract.bind("\\0quiltwork-%d" % os.getpid()); abstract.listen()
seal()
print(attempt(lambda: socket.create_connection(("127.0.0.1", port))))
print(attempt(lambda: socket.socket().connect(("127.0.0.1", port))))
print(attempt(lambda: socket.create_server(("127.0.0.1", 0))))
print(attempt(lambda: socket.socket(type=socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", 9))))
print(attempt(lambda: socket.getaddrinfo("localhost", 80)))
print(attempt(lambda: socket.socket(socket.AF_UNIX).connect(str(theirs / "door"))))
print(attempt(lambda: socket.socket(socket.AF_UNIX).connect(abstract.getsockname())))
"""


@pytest.mark.parametrize("level", [OPEN, *LEVELS])
def test_sockets_are_refused(base: Path, level: str | None) -> None:
    assert run(base, level, NETWORK) == (["done"] if level is OPEN else ["refused"]) * 7


SOCKETS_INSIDE = """
seal()
left, right = socket.socketpair()
left.sendall(b"x"); left.sendmsg([b"y"])
server = socket.socket(socket.AF_UNIX); server.bind(str(out / "door")); server.listen()
print(attempt(lambda: socket.socket(socket.AF_UNIX).connect(str(out / "door"))))
"""


@pytest.mark.parametrize("level", LEVELS)
def test_sockets_between_own_processes_work(base: Path, level: str) -> None:
    assert run(base, level, SOCKETS_INSIDE) == ["done"]


# Native code: the line between the two levels ------------------------------

NATIVE = """
libc = ctypes.CDLL(None, use_errno=True)
server = socket.create_server(("127.0.0.1", 0))
client = socket.socket()
port = server.getsockname()[1].to_bytes(2, "big")
address = (2).to_bytes(2, sys.byteorder) + port + bytes([127, 0, 0, 1]) + bytes(8)
def outcome(result):
    return "done" if result >= 0 else errno.errorcode[ctypes.get_errno()]
seal()
print(outcome(libc.open(str(theirs / "a.txt").encode(), 0)))
print(outcome(libc.connect(client.fileno(), address, 16)))
print(outcome(libc.mknod(str(out / "disk").encode(), 0o60600, 0x700)))
"""


@pytest.mark.skipif(not LANDLOCK, reason="no Landlock here")
def test_landlock_binds_native_code(base: Path) -> None:
    opened, connected, device = run(base, "landlock", NATIVE)
    assert opened == "EACCES"
    assert device in ("EACCES", "EPERM")
    if LANDLOCK >= 4:
        assert connected == "EACCES"


@pytest.mark.parametrize("level", [OPEN, "audit-hook"])
def test_the_audit_hook_does_not_bind_native_code_as_its_docstring_says(base: Path, level: str | None) -> None:
    assert run(base, level, NATIVE)[:2] == ["done", "done"]
    assert "native code passes it" in " ".join((module.__doc__ or "").split())


CHILDREN = """
seal()
read = "import sys; open(sys.argv[1]).read()"
def child(path):
    done = subprocess.run([sys.executable, "-c", read, str(path)], stderr=subprocess.PIPE, text=True)
    return "done" if done.returncode == 0 else "refused" if "PermissionError" in done.stderr else done.stderr
for path in (mine / "a.txt", theirs / "a.txt"):
    try:
        print(child(path))
    except PermissionError:
        print("not-started")
pid = os.fork()
if pid == 0:
    os._exit(0 if attempt((theirs / "a.txt").read_text) == "done" else 7)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        (OPEN, ["done", "done", "0"]),
        pytest.param("landlock", ["done", "refused", "7"], marks=LEVELS[0].marks),
        ("audit-hook", ["not-started", "not-started", "7"]),
    ],
)
def test_children_are_bound_or_not_started(base: Path, level: str | None, expected: list[str]) -> None:
    assert run(base, level, CHILDREN) == expected


# Living inside ------------------------------

INSIDE = """
seal()
import json, sqlite3, numpy, pydantic
from quiltwork.party.fragment import open_fragment
print(sum(1 for _ in open_fragment([mine / "a.txt"]).documents()))
thread_saw = []
thread = threading.Thread(target=lambda: thread_saw.append(attempt((theirs / "a.txt").read_text)))
thread.start(); thread.join()
print(*thread_saw, len(os.urandom(4)), Path("/proc/self/status").exists())
print(tempfile.gettempdir() == str(out))
"""


@pytest.mark.parametrize("level", LEVELS)
def test_imports_threads_and_temporary_files_work_inside(base: Path, level: str) -> None:
    assert run(base, level, INSIDE, TMPDIR=str(base / "out")) == ["1", "refused", "4", "True", "True"]


@pytest.mark.parametrize("level", LEVELS)
def test_torch_imports_inside(base: Path, level: str) -> None:
    code = "seal(); import torch; print(int(torch.ones(3).sum()))"
    assert run(base, level, code, TMPDIR=str(base / "out")) == ["3"]


def test_parquet_fragments_open_inside(base: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"text": ["one", "two"]}), base / "mine" / "a.parquet")
    code = """
    seal()
    from quiltwork.party.fragment import open_fragment
    print(*open_fragment([mine / "a.parquet"]).documents())
    """
    for level in ["landlock"] * bool(LANDLOCK) + ["audit-hook"]:
        assert run(base, level, code) == ["one", "two"]


RECORD = """
result = confine([mine], [out], level=level)
print(result.level, result.detail)
"""


@pytest.mark.parametrize("level", [None, *LEVELS])
def test_the_result_says_which_level_holds(base: Path, level: str | None) -> None:
    held, *detail = run(base, level, RECORD)
    assert held == (level or ("landlock" if LANDLOCK else "audit-hook"))
    if held == "landlock":
        assert f"ABI {LANDLOCK}" in " ".join(detail)
        assert "UDP" in detail
    else:
        assert "native code passes" in " ".join(detail)


FALLBACK = """
import quiltwork.party.confine as module
module.landlock_abi = lambda: 0
print(confine([mine], [out]).level, attempt((theirs / "a.txt").read_text))
"""


def test_without_landlock_the_guard_takes_over(base: Path) -> None:
    assert run(base, None, FALLBACK) == ["audit-hook", "refused"]


OLD_KERNELS = """
import quiltwork.party.confine as module
module.landlock_abi = lambda: {abi}
print(confine([mine], [out]).level, attempt((theirs / "a.txt").read_text))
print(attempt((mine / "a.txt").read_text), attempt(lambda: (out / "x").write_text("x")))
"""


@pytest.mark.skipif(not LANDLOCK, reason="no Landlock here")
@pytest.mark.parametrize("abi", range(1, LANDLOCK + 1))
def test_each_abi_is_asked_only_for_what_it_knows(base: Path, abi: int) -> None:
    assert run(base, None, OLD_KERNELS.format(abi=abi)) == ["landlock", "refused", "done", "done"]


THREADS = """
wait = threading.Event()
threading.Thread(target=wait.wait, name="early").start()
try:
    seal()
except FragmentError as error:
    print("early" in error.what, attempt((theirs / "a.txt").read_text))
else:
    print("sealed", attempt((theirs / "a.txt").read_text))
wait.set()
"""


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        pytest.param("landlock", ["True", "done"], marks=LEVELS[0].marks),
        ("audit-hook", ["sealed", "refused"]),
    ],
)
def test_running_threads_are_refused_where_they_would_escape(base: Path, level: str, expected: list[str]) -> None:
    assert run(base, level, THREADS) == expected


# Refusals and the table of roots (nothing is confined in this process) ------------------------------


def test_paths_that_do_not_exist_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidOption, match="absent"):
        confine([tmp_path / "absent"], [])
    with pytest.raises(InvalidOption, match="Create it first"):
        confine([tmp_path], [tmp_path / "absent"])


def test_a_level_that_is_not_to_be_had_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "landlock_abi", lambda: 0)
    with pytest.raises(InvalidOption, match="this kernel"):
        confine([tmp_path], [], level="landlock")


def test_a_kernel_that_refuses_the_rules_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(abi: int, rules: object) -> None:
        raise OSError(7, "Argument list too long")

    monkeypatch.setattr(module, "landlock_abi", lambda: 1)
    monkeypatch.setattr(module, "_restrict", refuse)
    monkeypatch.setattr(module, "_require_single_thread", lambda: None)
    with pytest.raises(FragmentError, match="Argument list too long"):
        confine([tmp_path], [])
    assert (tmp_path / ".." / tmp_path.name).exists()


def test_roots_hold_the_interpreter_but_no_place_of_fragments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    roots = interpreter_roots()
    for needed in (sys.executable, os.__file__, pytest.__file__, module.__file__):
        assert any(Path(needed).resolve().is_relative_to(root) for root in roots), needed
    for place in (
        tmp_path,
        Path("/"),
        Path("/home"),
        Path("/tmp"),
        Path("/root"),
        Path("/dev/shm"),
        Path("/dev"),
    ):
        assert not any(place == root for root in roots)
    assert not any(tmp_path.resolve().is_relative_to(root) for root in roots)


@pytest.mark.parametrize("prefix", ["/", "/home", "/tmp", ""])
def test_a_wide_prefix_does_not_open_everything(prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("prefix", "base_prefix", "exec_prefix", "base_exec_prefix"):
        monkeypatch.setattr(sys, name, prefix)
    monkeypatch.setattr(sys, "executable", "")
    roots = interpreter_roots()
    assert not {Path("/"), Path("/home"), Path("/tmp"), Path.cwd()} & set(roots)


def test_writing_never_includes_device_nodes() -> None:
    assert not module._WRITE & (module._MAKE_CHAR | module._MAKE_BLOCK | module._EXECUTE)
