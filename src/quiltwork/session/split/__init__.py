"""Split learning: components at their owners, and one composer over all of them or one head for each.

Each owner holds other columns of the same cases; nobody's columns move. A session, from the inside out:

>>> import numpy as np, torch
>>> from quiltwork.models.split.component import Component
>>> from quiltwork.models.split.composers import Concatenated, mlp
>>> from quiltwork.models.split.targets import ClassTarget
>>> from quiltwork.session.channel import LocalChannel
>>> from quiltwork.session.split.component_node import ComponentNode
>>> from quiltwork.session.split.joint import Joint
>>> from quiltwork.session.split.labels import OwnLabels
>>> from quiltwork.session.split.run import SplitRun
>>> from quiltwork.session.split.schedule import Schedule
>>> from quiltwork.session.split.words import component_terms

Each owner builds a component of width 4 and puts it, with its own rows, at its end of the channel:

>>> bits = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]).repeat(8, 1)
>>> columns, widths = {"ash": bits[:, :1], "birch": bits[:, 1:]}, {"ash": 4, "birch": 4}
>>> nodes = {
...     party: ComponentNode(Component.built(lambda: mlp(1, 4, [8]), name=party), rows)
...     for party, rows in columns.items()
... }
>>> channel = LocalChannel(nodes, {party: component_terms(width) for party, width in widths.items()})

The composer holds the labels, here of XOR, and the only module that sees both:

>>> labels = (bits[:, 0] != bits[:, 1]).long()
>>> composer = Component.built(lambda: Concatenated(mlp(8, 2, [16])), name="composer")
>>> schedule = Schedule(np.arange(32), batch=8, epochs=60)
>>> run = SplitRun(channel, Joint(composer, widths), OwnLabels(ClassTarget(labels, 2)), schedule, widths)
>>> run.train()
>>> run.predict(np.arange(4)).argmax(1)
array([0, 1, 1, 0])
>>> run.channel.log.bytes() == run.bill.bytes()
True
>>> sorted(run.records().dependencies["ash"])
['activation:ash', 'activation:birch', 'composer', 'labels']
"""
