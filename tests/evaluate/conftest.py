"""Fixtures of the tests on evaluation."""

import pytest
from screen_plants import World


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """A small consortium of honest owners, to plant things in."""
    return World(tmp_path_factory.mktemp("world"))


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
