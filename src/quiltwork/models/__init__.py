"""What a model is, on both sides: families of checkpoints, expert layers, and the parts a composed model is made of."""
