"""How copies of the model work together: the Runtime and its kinds."""
