"""The example of joined networks says what it is to say, and what it writes is what it says."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch

from quiltwork.compose.reopen import open_network_composite
from quiltwork.datasets.looks import CLASSES, sites

EXAMPLE = Path(__file__).parents[1] / "examples" / "join_networks.py"


def test_owners_publish_join_and_leave(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    example = runpy.run_path(str(EXAMPLE))
    example["main"](str(tmp_path), steps=120)
    said = capsys.readouterr().out
    found = {
        owner: tuple(map(float, re.search(rf"^{owner}: own (\S+), mean (\S+), joined (\S+)$", said, re.M).groups()))  # type: ignore[union-attr]
        for owner in example["LOOKS"]
    }
    for owner, (own, mean, joined) in found.items():
        assert own > 0.85, owner
        assert joined > own - 0.02
        assert joined > mean
    left = dict(re.findall(r"(ash|birch|cedar) (0\.\d+)", said.split("without cedar: ")[1]))
    assert float(left["ash"]) > 0.85
    assert float(left["cedar"]) < found["cedar"][0] - 0.3
    rest = open_network_composite(tmp_path / "without-cedar")
    assert rest.parties == ("ash", "birch")
    test = sites(example["LOOKS"])["birch"].test
    joined = open_network_composite(tmp_path / "joined")
    _require_equal(next(tmp_path.glob("joined.*")), test, joined.outputs(test))
    assert set(joined.predict(test)) <= set(CLASSES)


def _require_equal(exported: Path, inputs: np.ndarray, outputs: np.ndarray) -> None:
    if exported.suffix == ".pt2":
        with torch.no_grad():
            found = torch.export.load(exported).module()(torch.from_numpy(inputs)).numpy()
    else:
        runtime = pytest.importorskip("onnxruntime")
        session = runtime.InferenceSession(str(exported), providers=["CPUExecutionProvider"])
        (found,) = session.run(None, {session.get_inputs()[0].name: inputs})
    assert np.allclose(found, outputs, atol=1e-4)
