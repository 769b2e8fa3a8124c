"""Opening a stranger's network runs nothing: the interpreter itself is asked what happened meanwhile."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from network_owners import SIGNATURE, small

from quiltwork.party.module import ModuleOrder, contribute_module

SCRIPT = """
import json, pathlib, pickle, sys

from quiltwork.contribution.store import read
from quiltwork.models.network.opening import open_network

first, second = sys.argv[1:]
seen, watching = [], False
CODE = ("compile", "exec", "import", "pickle.find_class", "subprocess.Popen", "os.system", "ctypes.dlopen")


def watch(event, arguments):
    if watching and (event in CODE or event == "open"):
        seen.append([event, str(arguments[0])])


network = open_network(read(first))  # what torch imports at first use is not the contribution's doing
network(__import__("torch").zeros(2, 1, 6, 6))
sys.addaudithook(watch)
pickled, zeros = pickle.dumps(pathlib.PurePosixPath("x")), __import__("torch").zeros(2, 1, 6, 6)
watching = True
open_network(read(second))(zeros)
opening, seen = seen, []
pickle.loads(pickled)
watching = False
print(json.dumps([opening, seen]))
"""


def test_opening_a_network_compiles_imports_and_unpickles_nothing(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("first", "second")]
    for seed, path in enumerate(paths):
        contribute_module(small(4 + seed, seed), SIGNATURE, path, ModuleOrder("acme"))
    command = [sys.executable, "-c", SCRIPT, *map(str, paths)]
    found, pickled = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    opened = [what for event, what in found if event == "open"]
    assert opened
    assert all(what.startswith(str(paths[1])) or "/" not in what for what in opened), opened
    assert [one for one in found if one[0] not in ("open", "import")] == []
    imported = {what.partition(".")[0] for event, what in found if event == "import"}
    assert imported <= {"torch", "quiltwork"}
    assert "pickle.find_class" in {event for event, _ in pickled}, "the watch must see a pickle"
