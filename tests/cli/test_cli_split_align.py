"""``quiltwork split align``: two owners with files of their own, up to training on the aligned tables."""

from __future__ import annotations

import csv
import importlib
from pathlib import Path

import numpy as np
import pytest
from cli_runner import done, refused
from cli_split import PLAN, additive, table_csv, write_csv

from quiltwork.party.handover import agreement

try:
    importlib.import_module("private_set_intersection.python")
    WHY = ""
except ImportError as error:
    WHY = f"openmined.psi cannot be loaded here: {error}"
needs_library = pytest.mark.skipif(bool(WHY), reason=WHY)


def owners(place: Path) -> dict[str, list[str]]:
    """Tables of a bank and a shop, of which each lacks some cases of the other; labels are the bank's."""
    tables, labels = additive()
    ids = np.array([f"customer {i}" for i in range(240)])
    kept = {"bank": np.arange(0, 200), "shop": np.random.default_rng(3).permutation(np.arange(40, 240))}
    for party, rows in kept.items():
        table_csv(place / f"{party}.csv", list(ids[rows]), tables[party][rows])
    write_csv(place / "labels.csv", list(ids[kept["bank"]]), {"y": list(labels[kept["bank"]])})
    return {party: list(ids[rows]) for party, rows in kept.items()}


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as text:
        return list(csv.DictReader(text))


def align(step: str, table: Path, *more: object) -> tuple[object, ...]:
    return ("split", "align", step, table, "--id", "case", *more)


@needs_library
def test_two_owners_align_and_train(tmp_path: Path) -> None:
    ids = owners(tmp_path)
    bank, shop, own = (tmp_path / name for name in ("bank.csv", "shop.csv", "own"))
    asked, secret, reply, agreed = (tmp_path / name for name in ("request", "secret", "answer", "agreed"))
    done(*align("request", bank, "--out", asked, "--secret", secret))
    done(*align("answer", shop, "--given", asked, "--out", reply))
    told = done(*align("finish", bank, "--given", reply, "--secret", secret, "--out", agreed,
                       "--table", own / "bank.csv", "--json")).json  # fmt: skip
    assert (told["rows"], told["cases"]) == (200, 160)
    for name in ("shop", "labels"):
        done(*align("apply", tmp_path / f"{name}.csv", "--given", agreed, "--table", own / f"{name}.csv"))
    assert all(path.stat().st_mode & 0o077 == 0 for path in (secret, agreed, own / "bank.csv"))
    aligned = {name: rows(own / f"{name}.csv") for name in ("bank", "shop", "labels")}
    assert [r["case"] for r in aligned["bank"]] == [r["case"] for r in aligned["shop"]]
    originals = {r["x0"]: r["case"] for r in rows(bank)} | {r["x0"]: r["case"] for r in rows(shop)}
    pairs = [(originals[a["x0"]], originals[b["x0"]]) for a, b in zip(aligned["bank"], aligned["shop"], strict=True)]
    assert all(one == other for one, other in pairs)
    assert {one for one, _ in pairs} == set(ids["bank"]) & set(ids["shop"])
    assert "customer" not in (own / "bank.csv").read_text()
    (own / "plan.toml").write_text(PLAN.format(mode="isolated", epochs=4, more=""))
    assert (
        done("split", "train", own / "plan.toml", "--out", tmp_path / "run", "--json").json["scores"]["composed"] > 0.5
    )


def test_wrong_files_and_options_are_refused_by_name(tmp_path: Path) -> None:
    owners(tmp_path)
    bank, agreed = tmp_path / "bank.csv", tmp_path / "agreed"
    agreed.write_bytes(agreement(["customer 1", "customer 500"]))
    out = tmp_path / "out.csv"
    apply = ("--given", agreed, "--table", out)
    refused(*align("apply", bank, *apply), names="lacks 1 of the 2")
    refused(*align("apply", bank, "--given", bank.with_name("labels.csv"), "--table", out), names="agreement")
    refused(*align("apply", bank, "--given", agreed), names="--table")
    refused(*align("apply", bank, *apply, "--secret", agreed), names=("--secret", "does not take it"))
    refused(*align("apply", bank, "--given", agreed, "--table", bank), names=("bank.csv", "two things"))
    refused(*align("apply", bank, "--given", agreed, "--given", out, "--table", tmp_path / "o"), names="one file")
    refused("split", "align", "apply", bank, "--id", "nobody", *apply, names=("nobody", "x0"))
    (tmp_path / "short.csv").write_text("case,x\na,1\nb\n")
    refused(*align("apply", tmp_path / "short.csv", *apply), names=("short.csv", "row 2"))
    (tmp_path / "twice.csv").write_text("case,x\na,1\na,2\n")
    refused(*align("apply", tmp_path / "twice.csv", *apply), names="row 2")
    refused(*align("apply", tmp_path / "bank.parquet", *apply), names="no CSV file")
    assert not out.exists()
    assert bank.read_text().startswith("case,")
