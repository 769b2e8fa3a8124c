"""Trained networks as closed graphs: captured at their owner's side, bounded, spliced and exported.

A `Network` computes what the captured module computed, from data alone: a graph over the operators of ``operators`` and
its weights. What is composed of several is a `StitchedNetwork`.
"""
