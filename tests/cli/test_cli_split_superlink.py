"""Over a real SuperLink and two SuperNodes on this machine, with hosted owners: the whole way as docs/sessions.md goes.

Minutes, since Flower takes seconds for a message; run where quiltwork and flwr share an environment.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cli_runner import done
from cli_split import additive, plan

PARTIES = ("bank", "shop")
PATIENCE = 600.0

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("flwr") is None, reason="flwr is not installed"),
]


class Machines:
    """Everything that runs, each with a directory of its own and an environment that keeps Flower quiet."""

    def __init__(self, base: Path, sockets: Path) -> None:
        self.base, self.sockets, self.port = base, sockets, free_port()
        self.running: list[subprocess.Popen[bytes]] = []
        (base / "whole").mkdir()
        path = plan(base / "whole", additive(), "joint", 1)
        for name, file in (("composer", "labels"), *((party, party) for party in PARTIES)):
            (base / name).mkdir()
            shutil.copy(path, base / name)
            shutil.copy(path.parent / f"{file}.csv", base / name)
        (base / "flwr").mkdir()
        (base / "flwr" / "config.toml").write_text(
            f'[superlink]\ndefault = "here"\n[superlink.here]\naddress = "127.0.0.1:{self.port}"\ninsecure = true\n'
        )

    def start(self, where: str, *command: object) -> subprocess.Popen[bytes]:
        """Start a program in a session of its own, so that what it starts ends with it."""
        with (self.base / f"{where}.txt").open("ab") as output:
            found = subprocess.Popen(
                list(map(str, command)), cwd=self.base, env=self.environment(), stdout=output, stderr=output,
                start_new_session=True,
            )  # fmt: skip
        self.running.append(found)
        return found

    def environment(self) -> dict[str, str]:
        bin_ = str(Path(sys.executable).parent)
        quiet = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "FLWR_HOME": str(self.base / "flwr")}
        return os.environ | quiet | {"PATH": f"{bin_}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}

    def host(self, party: str) -> subprocess.Popen[bytes]:
        """Host a party, and wait for its invitation."""
        card = self.base / "invitations" / f"{party}.json"
        card.unlink(missing_ok=True)
        owner = self.start(
            f"host-{party}", sys.executable, "-m", "quiltwork", "split", "host", self.base / party / "plan.toml",
            "--party", party, "--socket", self.sockets / party / "s", "--folder", self.base / party / "states",
            "--invitation", card,
        )  # fmt: skip
        awaited(lambda: card.exists() or owner.poll() is not None)
        assert card.exists(), (self.base / f"host-{party}.txt").read_text()
        return owner

    def link(self) -> None:
        """The SuperLink, and a SuperNode for each party."""
        self.start("link", "flower-superlink", "--insecure", "--disable-runtime-dependency-installation",
                   "--port", self.port)  # fmt: skip
        awaited(lambda: listens(self.port))
        for party in PARTIES:
            config = f'party="{party}" socket="{self.sockets / party / "s"}"'
            self.start(f"node-{party}", "flower-supernode", "--insecure", "--superlink", f"127.0.0.1:{self.port}",
                       "--port", free_port(), "--node-config", config)  # fmt: skip

    def submit(self, app: str, *options: object) -> None:
        """Make the app, and hand it to the SuperLink; what the composer says goes to ``run-<app>.txt``."""
        path = self.base / "composer" / "plan.toml"
        places = ("--invitations", self.base / "invitations", "--out", self.base / "run", "--app", self.base / app)
        done("split", "flower", path, *places, *options)
        self.streaming = self.start(f"run-{app}", "flwr", "run", self.base / app, "here", "--stream")

    def trained(self) -> dict[str, Any]:
        """What was crossed and learned, once Flower says that it is over; a composer without a SuperLink stays."""
        awaited(lambda: self.streaming.poll() is not None)
        return facts(self.base / "run")

    def end(self) -> None:
        for one in reversed(self.running):
            try:
                os.killpg(one.pid, signal.SIGTERM)
            except ProcessLookupError:
                continue
        for one in self.running:
            try:
                one.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(one.pid, signal.SIGKILL)
                one.wait(20)


def facts(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "records.json").read_text())["facts"]
    return found


def awaited(there: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not there():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        return int(one.getsockname()[1])


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[Machines]:
    with tempfile.TemporaryDirectory(prefix="qw") as sockets:
        found = Machines(tmp_path, Path(sockets))
        try:
            yield found
        finally:
            found.end()


def test_a_superlink_carries_what_one_process_learns(machines: Machines) -> None:
    done("split", "train", machines.base / "whole" / "plan.toml", "--out", machines.base / "here")
    owners = [machines.host(party) for party in PARTIES]
    machines.link()
    began = time.monotonic()
    machines.submit("app")
    found, here = machines.trained(), facts(machines.base / "here")
    print(f"{found['rounds']} rounds in {time.monotonic() - began:.0f} s")
    assert found["digests"] == here["digests"]
    # every frame and byte of every kind, by party and direction: those of one process, and those of the formula
    assert found["crossed"] == here["crossed"]
    assert found["formula"] == here["formula"]
    assert set(found["sealing"].values()) <= {"landlock", "audit-hook"}
    assert [owner.wait(60) for owner in owners] == [0, 0]
    assert not (machines.base / "run" / "components").exists()


def test_an_owner_that_dies_is_told_and_training_goes_on_from_its_state(machines: Machines) -> None:
    done("split", "train", machines.base / "whole" / "plan.toml", "--out", machines.base / "here", "--save-every", 2)
    owners = {party: machines.host(party) for party in PARTIES}
    machines.link()
    machines.submit("app", "--save-every", 2)
    awaited(lambda: (machines.base / "run.states" / "composer" / "state.json").exists())
    os.killpg(owners["shop"].pid, signal.SIGKILL)
    owners["shop"].wait()
    awaited(lambda: "refused: party 'shop'" in (machines.base / "run-app.txt").read_text(errors="replace"))
    assert not (machines.base / "run").exists()
    # the other owner is told to stop
    assert owners["bank"].wait(120) == 0
    for party in PARTIES:
        machines.host(party)
    machines.submit("again", "--save-every", 2, "--resume")
    assert machines.trained()["digests"] == facts(machines.base / "here")["digests"]
