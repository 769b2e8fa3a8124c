"""Judging composed models: the score matrix of text or of tables, what each party gains or loses, the report.

A number here always belongs to one model and one party's held-out data. An average over parties is shown
beside the columns that it averages, never instead of them, because an average hides the party that would do
better alone.
"""
