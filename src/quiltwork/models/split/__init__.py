"""Components of split learning: modules that learn from cotangents alone, seeds keyed by name, labels and their loss.

Nothing here opens private data or speaks over a channel: a component is given rows, and gives activations.
"""
