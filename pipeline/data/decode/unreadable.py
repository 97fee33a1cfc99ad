"""The error for one image that cannot be read."""


class UnreadableError(Exception):
    """It is no image, or damaged; the text is the reason. Who catches it knows the name."""
