"""What comes out of composing: a model with its provenance.

``language`` is a composed language model, ``table`` a composed mixture of experts on tables, ``network`` a composition
of networks on inputs; all know their parties and can be had without one of them, exactly. ``provenance`` is what every
saved composite says about itself.
"""

from quiltwork.composite.language import Composite, open_composite, saved_layout
from quiltwork.composite.network import NetworkComposite
from quiltwork.composite.network_solution import NetworkMethod, NetworkSolution
from quiltwork.composite.provenance import PROVENANCE, Entry, Provenance, saved_kind
from quiltwork.composite.solution import Solution, TableMethod
from quiltwork.composite.table import TableComposite

__all__ = [
    "PROVENANCE",
    "Composite",
    "Entry",
    "NetworkComposite",
    "NetworkMethod",
    "NetworkSolution",
    "Provenance",
    "Solution",
    "TableComposite",
    "TableMethod",
    "open_composite",
    "saved_kind",
    "saved_layout",
]
