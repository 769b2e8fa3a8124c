"""Owners on machines of their own: `split host` in processes of its own, `split flower`, and a composer apart.

The way between them is here a visit to each socket, as a Flower node's relay makes it; over Flower itself the same is
in tests/cli/test_cli_split_superlink.py.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import time
import tomllib
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_runner import done, finish, misused, refused, start
from cli_split import additive, plan

from quiltwork.cli.split import apart
from quiltwork.cli.split.apart import Orders, cases_apart, plan_apart, train_apart
from quiltwork.cli.split.flower import files
from quiltwork.cli.split.folder import plan_digest
from quiltwork.cli.split.invitation import Invitation, ids_digest
from quiltwork.errors import QuiltworkError, TableMismatch
from quiltwork.session.channel import ComposerEnd, Log, PairKeys, Terms, lost
from quiltwork.session.frames import Message
from quiltwork.session.resident import asked

PARTIES = ("bank", "shop")


@pytest.fixture
def short() -> Iterator[Path]:
    """A short path, as sockets need."""
    with tempfile.TemporaryDirectory(prefix="qw") as name:
        yield Path(name)


@pytest.fixture
def machines(tmp_path: Path) -> Path:
    """A directory for each machine, with the plan and the own files only."""
    (tmp_path / "whole").mkdir()
    path = plan(tmp_path / "whole", additive(), "joint", 1)
    for name, file in (("composer", "labels"), *((party, party) for party in PARTIES)):
        (tmp_path / name).mkdir()
        shutil.copy(path, tmp_path / name)
        shutil.copy(path.parent / f"{file}.csv", tmp_path / name)
    return tmp_path


def host(machines: Path, sockets: Path, party: str, /, **options: object) -> tuple[object, ...]:
    """The command by which an owner hosts its party."""
    told = {
        "party": party,
        "socket": sockets / party / "s",
        "folder": machines / party / "states",
        "invitation": machines / "invitations" / f"{party}.json",
    } | options
    words = [word for key, value in told.items() for word in (f"--{key}", value)]
    return ("split", "host", machines / party / "plan.toml", *words)


class Visits:
    """A channel to hosted parties by their sockets and invitations."""

    def __init__(self, sockets: Path, invited: Mapping[str, Invitation], terms: Mapping[str, Terms]) -> None:
        self.log = Log()
        self.sealing = {party: one.sealing for party, one in invited.items()}
        self._paths = {party: sockets / party / "s" for party in invited}
        self._ends = {party: ComposerEnd(party, terms[party], one.keys, self.log) for party, one in invited.items()}
        self._answers: dict[str, deque[bytes]] = {party: deque() for party in invited}

    def nodes(self) -> tuple[str, ...]:
        return tuple(sorted(self._ends))

    def push(self, node: str, message: Message) -> None:
        self._answers[node].append(asked(self._paths[node], self._ends[node].seal(message)))

    def pull(self, node: str) -> Message:
        if not self._answers[node]:
            raise lost(node, "it has nothing more to say")
        return self._ends[node].open(self._answers[node].popleft())

    def call(self, node: str, message: Message) -> Message:
        self.push(node, message)
        return self.pull(node)

    def close(self) -> None:
        pass


def ready(machines: Path, owners: list[subprocess.Popen[str]], parties: tuple[str, ...] = PARTIES) -> None:
    """Wait until all invitations are there."""
    wanted = [machines / "invitations" / f"{party}.json" for party in parties]
    while not all(path.exists() for path in wanted):
        assert all(owner.poll() is None for owner in owners), [finish(owner) for owner in owners]
        time.sleep(0.05)


def test_owners_apart_learn_what_one_process_learns(
    machines: Path, short: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owners = [start(*host(machines, short, party)) for party in PARTIES]
    here = done("split", "train", machines / "whole" / "plan.toml", "--out", machines / "here", "--json").json
    ready(machines, owners)
    assert all((machines / "invitations" / f"{party}.json").stat().st_mode & 0o777 == 0o600 for party in PARTIES)

    def visiting(grid: object, words: Any, cases: Any, invited: Any, patience: float) -> Visits:
        return Visits(short, invited, apart.words(words, len(cases.classes)))

    monkeypatch.setattr(apart, "_channel", visiting)
    orders = Orders(machines / "composer" / "plan.toml", machines / "invitations", machines / "run")
    found = train_apart(None, orders)
    assert found["digests"] == here["digests"]
    assert found["scores"] == here["scores"]

    outcomes = [finish(owner) for owner in owners]
    assert [outcome.code for outcome in outcomes] == [0, 0], outcomes
    # keys are spent, sockets gone, components at their owners and nowhere else
    assert not list((machines / "invitations").iterdir())
    assert not [path for path in short.rglob("s") if path.name == "s"]
    assert not (machines / "run" / "components").exists()
    facts, others = (json.loads((machines / run / "records.json").read_text())["facts"] for run in ("run", "here"))
    assert facts["crossed"] == others["crossed"]
    assert set(facts["sealing"].values()) == {"landlock"} or "audit-hook" in facts["sealing"].values()
    assert set(others["sealing"].values()) == {"not sealed"}
    _judged_and_asked(machines)


def _judged_and_asked(machines: Path) -> None:
    """The run is audited without components; to predict here, owners hand theirs over."""
    path, run = machines / "whole" / "plan.toml", machines / "run"
    done("split", "audit", path, "--run", run)
    data = [word for party in PARTIES for word in ("--data", f"{party}={machines / party / party}.csv")]
    asking = ("split", "predict", path, "--run", run, *data, "--out", machines / "there.csv")
    refused(*asking, names=("bank", "stayed at its owner"), mend="components/bank.safetensors")
    (run / "components").mkdir()
    for party in PARTIES:
        (state,) = (machines / party / "states").glob("round-*.safetensors")
        shutil.copy(state, run / "components" / f"{party}.safetensors")
    done(*asking)
    done("split", "predict", path, "--run", machines / "here", *data, "--out", machines / "here.csv")
    assert (machines / "there.csv").read_bytes() == (machines / "here.csv").read_bytes()
    done("split", "audit", path, "--run", run)
    # negative control: a component that is another is noticed
    shutil.copy(run / "components" / "shop.safetensors", run / "components" / "bank.safetensors")
    refused("split", "audit", path, "--run", run, names=("bank",))


@pytest.mark.slow
def test_owners_apart_add_up_under_masks_that_they_agreed_on(
    machines: Path, short: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    everybody = masked(machines)
    here = done("split", "train", machines / "whole" / "plan.toml", "--out", machines / "here", "--json").json
    extra = {p: {"identity": machines / p / f"{p}.identity", "roster": machines / "roster"} for p in everybody}
    owners = [start(*host(machines, short, party, **extra[party])) for party in everybody]
    ready(machines, owners, everybody)

    def visiting(grid: object, words: Any, cases: Any, invited: Any, patience: float) -> Visits:
        return Visits(short, invited, apart.words(words, len(cases.classes)))

    monkeypatch.setattr(apart, "_channel", visiting)
    orders = Orders(machines / "composer" / "plan.toml", machines / "invitations", machines / "run")
    found = train_apart(None, orders)
    assert found["digests"] == here["digests"]
    assert [finish(owner).code for owner in owners] == [0, 0, 0]
    crossed = json.loads((machines / "run" / "records.json").read_text())["facts"]["crossed"]
    assert "MASKED" in {one["kind"] for one in crossed}
    assert not {one["kind"] for one in crossed if one["direction"] == "up"} & {"ACTIVATION", "OUTPUT"}


def masked(machines: Path) -> tuple[str, ...]:
    """Make the plan one of three parties whose sum alone is seen, with an identity for each."""
    everybody = (*PARTIES, "tax")
    path = machines / "whole" / "plan.toml"
    path.write_text(
        path.read_text().replace("hidden = [16]", 'hidden = [16]\nsum = "secure"')
        + '[parties.tax]\nfiles = ["tax.csv"]\ncomponent = { kind = "mlp", hidden = [8], width = 4 }\n'
    )
    shutil.copy(path.parent / "shop.csv", path.parent / "tax.csv")
    (machines / "tax").mkdir()
    shutil.copy(path.parent / "tax.csv", machines / "tax")
    (machines / "roster").mkdir()
    for name in (*everybody, "composer"):
        shutil.copy(path, machines / name)
    for name in everybody:
        done("split", "identity", "--out", machines / name / f"{name}.identity")
        shutil.copy(machines / name / f"{name}.identity.pub", machines / "roster" / f"{name}.pub")
    return everybody


def no_files(machines: Path) -> dict[str, Path]:
    return {}


def another_ones(machines: Path) -> dict[str, Path]:
    return {"identity": machines / "shop" / "shop.identity"}


def a_missing_one(machines: Path) -> dict[str, Path]:
    (machines / "roster" / "tax.pub").unlink()
    return {}


def a_damaged_one(machines: Path) -> dict[str, Path]:
    (machines / "roster" / "tax.pub").write_text("ff" * 31)
    return {}


def one_twice(machines: Path) -> dict[str, Path]:
    shutil.copy(machines / "roster" / "shop.pub", machines / "roster" / "tax.pub")
    return {}


@pytest.mark.parametrize(
    ("spoil", "names"),
    [
        (no_files, ("--identity", "is 'secure'")),
        (another_ones, ("bank.pub", "shop.identity")),
        (a_missing_one, ("tax.pub", "not there")),
        (a_damaged_one, ("tax.pub", "64 hexadecimal")),
        (one_twice, ("pub", "another party has the same")),
    ],
)
def test_identities_that_do_not_fit(
    spoil: Callable[[Path], dict[str, Path]], names: tuple[str, ...], machines: Path, short: Path
) -> None:
    masked(machines)
    files = {"identity": machines / "bank" / "bank.identity", "roster": machines / "roster"} | spoil(machines)
    refused(*host(machines, short, "bank", **(files if spoil is not no_files else {})), names=names)


def test_identities_are_for_masks_only_and_kept(machines: Path, short: Path) -> None:
    done("split", "identity", "--out", machines / "bank" / "key")
    assert (machines / "bank" / "key").stat().st_mode & 0o777 == 0o600
    refused("split", "identity", "--out", machines / "bank" / "key", names="already there")
    given = {"identity": machines / "bank" / "key", "roster": machines}
    refused(*host(machines, short, "bank", **given), names=("--identity", "not 'secure'"))


# Owners ------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"party": "baker"}, ("baker", "bank, shop")),
        ({"patience": 0}, ("patience",)),
        ({"socket": "/tmp/socket"}, ("'/tmp'", "others may enter")),
        ({"socket": "x" * 200}, ("bytes",)),
    ],
)
def test_a_host_that_is_refused(
    options: dict[str, object], names: tuple[str, ...], machines: Path, short: Path
) -> None:
    refused(*host(machines, short, "bank", **options), names=names)
    assert not (machines / "invitations").exists()


def test_a_host_needs_its_own_files_only_and_a_place_for_its_invitation(machines: Path, short: Path) -> None:
    refused(*host(machines, short, "bank", invitation=machines / "bank" / "plan.toml"), names="plan.toml")
    (machines / "bank" / "bank.csv").unlink()
    refused(*host(machines, short, "bank"), names="bank.csv")
    misused("split", "host", machines / "bank" / "plan.toml", names="--party")


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ('id = "case"', 'id = "case"\nalign = "common"', "align"),
        ('column = "y"', 'column = "y"\nparty = "registry"', "labels.party"),
    ],
)
def test_what_only_works_in_one_place_is_refused(old: str, new: str, key: str, machines: Path, short: Path) -> None:
    path = machines / "bank" / "plan.toml"
    path.write_text(path.read_text().replace(old, new))
    refused(*host(machines, short, "bank"), names=(key, "over Flower"))


def test_an_owner_who_trusts_the_own_code_runs_none_of_the_composers(machines: Path, short: Path) -> None:
    path, marker = machines / "bank" / "plan.toml", machines / "ran"
    whole = path.read_text().replace(", width = 4", "").replace('"joint"', '"program"').replace("hidden = [16]", "")
    part = '[program]\nkind = "code"\nfile = "told.py"\nname = "told"\nsymbols = 2\n[composer]'
    path.write_text(whole.replace("[composer]", part))
    (path.parent / "told.py").write_text(f"open({str(marker)!r}, 'w').close()\ndef told(a, b):\n    return a + b\n")
    (path.parent / "bank.csv").unlink()
    refused(*host(machines, short, "bank"), "--trust-code", names="bank.csv")
    assert not marker.exists()
    # negative control: the composer needs it, and it would have been noticed
    assert plan_apart(path, ("program",)).labels.classes == ["0", "1", "2"]
    assert marker.exists()


def test_the_label_among_a_partys_columns(machines: Path, short: Path) -> None:
    path = machines / "bank" / "plan.toml"
    path.write_text(path.read_text().replace('files = ["labels.csv"]', 'files = ["bank.csv"]').replace('"y"', '"x0"'))
    refused(*host(machines, short, "bank"), names=("x0", "label"))


def test_keys_are_never_printed(machines: Path) -> None:
    one = invitation(machines, "shop")
    assert all(one.up not in told and str(one.keys.up) not in told for told in (repr(one), str(one), repr(one.keys)))
    assert one.ids is not None
    assert one.ids in repr(one)


# The composer ------------------------------------------------------------


def invitation(machines: Path, party: str, **changes: object) -> Invitation:
    """An invitation as `split host` writes it, for cases c0000 ... c0239."""
    keys = PairKeys(bytes(32), bytes([1] * 32))
    digest = plan_digest((machines / "composer" / "plan.toml").read_bytes())
    told: dict[str, Any] = {
        "party": party, "plan": digest, "down": keys.down.hex(), "up": keys.up.hex(), "sealing": "landlock",
        "columns": ["x0", "x1"], "cases": 240, "ids": ids_digest([f"c{i:04d}" for i in range(240)], keys),
    }  # fmt: skip
    return Invitation.model_validate(told | changes)


def invited(machines: Path, **changes: object) -> None:
    for party in PARTIES:
        invitation(machines, party, **(changes if party == "shop" else {})).write(
            machines / "invitations" / f"{party}.json"
        )


def flower(machines: Path, **options: object) -> tuple[object, ...]:
    told = {"invitations": machines / "invitations", "out": machines / "run", "app": machines / "app"} | options
    words = [word for key, value in told.items() for word in (f"--{key}", value)]
    return ("split", "flower", machines / "composer" / "plan.toml", *words)


def test_the_app_imports_what_is_installed_and_holds_no_secret(machines: Path) -> None:
    invited(machines)
    done(*flower(machines))
    app = machines / "app"
    project = tomllib.loads((app / "pyproject.toml").read_text())
    config = project["tool"]["flwr"]["app"]["config"]
    assert config["plan"] == str(machines / "composer" / "plan.toml")
    assert (config["save-every"], config["resume"], config["patience"]) == (0, False, 300.0)
    for name in project["tool"]["flwr"]["app"]["components"].values():
        module = app / (name.partition(":")[0].replace(".", "/") + ".py")
        compile(module.read_text(), str(module), "exec")
    everything = "".join(path.read_text() for path in app.rglob("*") if path.is_file())
    assert bytes([1] * 32).hex() not in everything
    refused(*flower(machines), names="already there")


def test_places_of_any_name_reach_the_composer(tmp_path: Path) -> None:
    odd = tmp_path / "a \"quoted\" \\ place, ünder 'it'"
    orders = Orders(odd / "plan.toml", odd / "in", odd / "out", 5, True, ("program",), 7.5)
    config = tomllib.loads(files(orders)["pyproject.toml"])["tool"]["flwr"]["app"]["config"]
    assert config == {
        "plan": str(odd / "plan.toml"), "invitations": str(odd / "in"), "out": str(odd / "out"), "save-every": 5,
        "resume": True, "trusted": "program", "patience": 7.5,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (lambda path: path.unlink(), ("shop.json", "not there")),
        (lambda path: path.write_text(path.read_text()[:-5]), ("shop.json", "is not one")),
        (lambda path: path.write_text(path.read_text().replace('"shop"', '"bank"')), ("shop.json", "party 'bank'")),
        (lambda path: path.write_text(path.read_text().replace("240", '"240"')), ("shop.json", "is not one")),
    ],
)
def test_an_invitation_that_cannot_be_used(change: Any, names: tuple[str, ...], machines: Path) -> None:
    invited(machines)
    change(machines / "invitations" / "shop.json")
    refused(*flower(machines), names=names)
    assert not (machines / "app").exists()


def test_an_invitation_to_another_plan(machines: Path) -> None:
    invited(machines)
    path = machines / "composer" / "plan.toml"
    path.write_text(path.read_text() + "\n")
    refused(*flower(machines), names=("bank.json", "another plan"))


KEYS = PairKeys(bytes(32), bytes([1] * 32))
ODD_IDS = ids_digest([f"c{i:04d}" for i in range(239)] + ["c0240"], KEYS)


@pytest.mark.parametrize(
    ("changes", "why"),
    [({}, None), ({"cases": 239}, "240"), ({"ids": ODD_IDS}, "not those of the labels"), ({"ids": None}, "not those")],
)
def test_cases_that_are_not_those_of_the_labels(changes: dict[str, Any], why: str | None, machines: Path) -> None:
    path = machines / "composer" / "plan.toml"
    parties = {p: invitation(machines, p, **(changes if p == "shop" else {})) for p in PARTIES}
    if why is not None:
        with pytest.raises(TableMismatch, match=why):
            cases_apart(plan_apart(path, ()), path.parent, parties)
        return
    found = cases_apart(plan_apart(path, ()), path.parent, parties)
    assert found.fragments == {}
    assert found.columns == dict.fromkeys(PARTIES, ("x0", "x1"))
    assert np.array_equal(found.labels.numpy(), additive()[1])


def test_a_run_directory_that_is_there_already(machines: Path) -> None:
    invited(machines)
    (machines / "run").mkdir()
    with pytest.raises(QuiltworkError, match="already there"):
        train_apart(None, Orders(machines / "composer" / "plan.toml", machines / "invitations", machines / "run"))
