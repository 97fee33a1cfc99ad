"""The verbs of the `vit` command."""
