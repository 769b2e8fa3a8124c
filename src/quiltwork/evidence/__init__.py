"""Density summaries of fragments, and the posterior over parties that follows from them."""
