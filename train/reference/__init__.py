"""Import of checkpoints of the reference implementation."""
