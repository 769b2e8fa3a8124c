"""Judging composed models: bits per byte, the score matrix, what each party gains or loses, the report.

A number here always belongs to one model and one party's held-out text. An average over parties is shown
beside the columns that it averages, never instead of them, because an average hides the party that would do
better alone.
"""
