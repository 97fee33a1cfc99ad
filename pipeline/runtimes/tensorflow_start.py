"""Imports TensorFlow without the messages that it writes to standard error at every start."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from contextlib import suppress

# Messages about the build and missing drivers. C++ writes them before any Python logger exists.
_NOISE = re.compile(
    rb"^(WARNING: All log messages before absl|[IW]\d{4} |\d{4}-\d\d-\d\d .*: [IW] |"
    rb"To enable the following instructions|"
    rb"E\d{4} .*(factory for plugin|cuInit|computation placer already registered))"
)


def import_tensorflow() -> None:
    """Imports TensorFlow and Keras with the environment variables that all commands need.

    Standard error is captured during the import. Lines that are not startup messages are printed
    afterwards.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ["KERAS_BACKEND"] = "tensorflow"
    sys.stderr.flush()
    terminal = os.dup(2)
    with tempfile.TemporaryFile() as captured:
        os.dup2(captured.fileno(), 2)
        try:
            import keras  # noqa: F401
            import tensorflow as tf

            tf.config.list_logical_devices  # noqa: B018
        finally:
            sys.stderr.flush()
            os.dup2(terminal, 2)
            os.close(terminal)
            captured.seek(0)
            for line in captured:
                if not _NOISE.match(line):
                    with suppress(OSError):  # standard error may be closed
                        os.write(2, line)
