"""The ways a run can end that are not faults of the program, each with its exit code.

Every error carries one message for the user: what is wrong, what was received, what to do.
"""

# Ends of messages that advise a setting. A verb that takes no settings leaves them out; they are
# text, since messages cross graphs and processes as text.
SKIP_BAD_IMAGES = ", or set data.on_bad_image=skip"
RESIZE_IMAGES = ". Set data.resize=squash or data.resize=crop"


def without_settings(message: str) -> str:
    """The message for a verb that takes no settings."""
    for advice in (SKIP_BAD_IMAGES, RESIZE_IMAGES):
        message = message.replace(advice, "")
    return message


class PipelineError(Exception):
    """Base of the errors that are shown as one message, without a traceback.

    Attributes:
      exit_code: Of the process that it ends.
      said_by_chief: All processes raise it together, and the chief alone need show it.
    """

    exit_code = 1
    said_by_chief = False


class SettingsError(PipelineError):
    """A setting, an argument or a recipe is wrong, or does not fit this machine."""

    exit_code = 2


class DataError(PipelineError):
    """The data set is missing, unreadable or not what the recipe says."""

    exit_code = 3


class Stopped(PipelineError):
    """Stopped on request with a checkpoint: the same command goes on from there."""

    exit_code = 75
    said_by_chief = True


class PeerLost(PipelineError):
    """Another process of the job went away: start all of them again."""

    exit_code = 76


def cause(message: str) -> str:
    """The line of a TensorFlow error that says what went wrong, without where it was defined.

    A graph's errors begin with that: one paragraph with the lines of Python, then the cause.
    """
    paragraphs = message.strip().split("\n\n")
    return paragraphs[-1 if message.startswith("Graph execution error") else 0].splitlines()[0]
