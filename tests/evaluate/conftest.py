"""Fixtures of the tests on evaluation."""

import pytest


@pytest.fixture
def canvases(monkeypatch):
    """The matplotlib figures behind the PNG bytes, as they are drawn."""
    figure = pytest.importorskip("matplotlib.figure")
    kept = []
    save = figure.Figure.savefig

    def keep(self, *args, **kwargs):
        kept.append(self)
        return save(self, *args, **kwargs)

    monkeypatch.setattr(figure.Figure, "savefig", keep)
    return kept
