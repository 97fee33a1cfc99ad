"""The exception for an image that cannot be read."""


class UnreadableError(Exception):
    """The image cannot be decoded. The text is the reason; the caller adds the name."""
