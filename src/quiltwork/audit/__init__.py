"""What a session of split learning can claim, and the checks and attacks that the claims stand on."""
