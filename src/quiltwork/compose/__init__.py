"""One talk: contributions in, a composite out. ``method`` holds the verb and its noun; one method, one file."""
