"""Errors with an exit code, for failures that are not bugs in the program.

The message of each error tells the user what is wrong, what was received, and what to do.
"""

# Endings of messages that recommend a setting. Verbs without settings remove them. They are removed
# from the text because errors pass through graphs and between processes as text.
SKIP_BAD_IMAGES = ", or set data.on_bad_image=skip"
RESIZE_IMAGES = ". Set data.resize=squash or data.resize=crop"


def without_settings(message: str) -> str:
    """Removes advice about settings from a message, for verbs that accept no settings."""
    for advice in (SKIP_BAD_IMAGES, RESIZE_IMAGES):
        message = message.replace(advice, "")
    return message


class PipelineError(Exception):
    """Base class of errors that are shown as one message, without a traceback.

    Attributes:
      exit_code: Exit code of the process.
      said_by_chief: Whether all processes raise the error together, so that only the chief needs to
        show it.
    """

    exit_code = 1
    said_by_chief = False


class SettingsError(PipelineError):
    """A setting, an argument or a recipe is wrong, or this machine does not support it."""

    exit_code = 2


class DataError(PipelineError):
    """The data set is missing, cannot be read, or does not match the recipe."""

    exit_code = 3


class Stopped(PipelineError):
    """The run was stopped on request and saved a checkpoint. The same command resumes it."""

    exit_code = 75
    said_by_chief = True


class PeerLost(PipelineError):
    """Another process of the job was lost. All processes must be started again."""

    exit_code = 76


def cause(message: str) -> str:
    """The line of a TensorFlow error that states the cause.

    An error in a graph starts with a paragraph that says where the operation was defined in Python.
    The cause follows in the last paragraph.
    """
    paragraphs = message.strip().split("\n\n")
    return paragraphs[-1 if message.startswith("Graph execution error") else 0].splitlines()[0]
