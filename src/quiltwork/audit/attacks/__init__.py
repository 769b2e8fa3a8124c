"""Attacks on sessions, shipped as tests of our own claims; each beside what the attacker had without the session."""
