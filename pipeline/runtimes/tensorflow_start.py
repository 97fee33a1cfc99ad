"""Imports TensorFlow without the notes it writes to standard error at every start."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from contextlib import suppress

# Notes about the build and absent drivers, which come from C++ before any Python logger.
_NOISE = re.compile(
    rb"^(WARNING: All log messages before absl|[IW]\d{4} |\d{4}-\d\d-\d\d .*: [IW] |"
    rb"To enable the following instructions|"
    rb"E\d{4} .*(factory for plugin|cuInit|computation placer already registered))"
)


def import_tensorflow() -> None:
    """Imports TensorFlow and Keras with the settings every verb needs.

    What they print meanwhile is held back; lines that are not start-up notes are then printed.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ["KERAS_BACKEND"] = "tensorflow"
    sys.stderr.flush()
    terminal = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            import keras  # noqa: F401
            import tensorflow as tf

            tf.config.list_logical_devices  # noqa: B018
        finally:
            sys.stderr.flush()
            os.dup2(terminal, 2)
            os.close(terminal)
            held.seek(0)
            for line in held:
                if not _NOISE.match(line):
                    with suppress(OSError):  # nobody reads it
                        os.write(2, line)
