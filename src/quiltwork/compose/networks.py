"""Composition over networks: the nouns that its methods share, gathered here. Methods live in files of their own.

Member             one party: its network, the statistics of its inputs, what it released about others
NetworkMethod      needs, uses, and build(task, members)
NetworkSolution    the module that comes out, and what was found on the way
TaskReference      what goes in and what comes out, the same for all
"""

from __future__ import annotations

from quiltwork.composite.network_members import Member, about
from quiltwork.composite.network_solution import NetworkMethod, NetworkSolution
from quiltwork.contribution.networks import TaskReference

__all__ = ["Member", "NetworkMethod", "NetworkSolution", "TaskReference", "about"]
