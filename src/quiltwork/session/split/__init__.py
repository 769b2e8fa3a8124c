"""Split learning: components at their owners, one composer that differentiates through all of them, or one head each."""
