"""Split learning: components at their owners, and one composer over all of them or one head for each."""
