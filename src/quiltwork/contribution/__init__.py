"""What may leave a party, and how it is checked: docs/format.md is the prose, these files are the rules.

``kinds`` and ``manifest`` say what a contribution may declare, ``canonical`` and ``header`` give every
declaration one spelling, ``directory`` and ``payload`` read a stranger's files, ``store`` writes and reads
the whole, ``describe`` tells a person what is in it.
"""
