"""The training step, the loop, and the place where all stages meet."""
