"""What a release costs its owner: events (what was released how), mechanisms, and the accountant."""
