"""Imports TensorFlow without the messages that it writes to standard error at every start."""

from __future__ import annotations

import gc
import os
import re
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from importlib.abc import MetaPathFinder
from types import ModuleType

# Messages about the build and missing drivers. C++ writes them before any Python logger exists.
_NOISE = re.compile(
    rb"^(WARNING: All log messages before absl|[IW]\d{4} |\d{4}-\d\d-\d\d .*: [IW] |"
    rb"To enable the following instructions|"
    rb"E\d{4} .*(factory for plugin|cuInit|computation placer already registered))"
)

# Keras imports them, where they are installed, for its scikit-learn wrappers, image galleries and
# its editor of files in notebooks. They take a third of the time of the import.
_ONLY_FOR_EXTRAS = frozenset({"IPython", "matplotlib", "sklearn"})


class _KerasWithoutExtras(MetaPathFinder):
    """Reports some packages as not installed, to Keras alone."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> None:
        if fullname not in _ONLY_FOR_EXTRAS:
            return
        # Keras is imported by itself or in the course of TensorFlow.
        specs = (getattr(sys.modules.get(x), "__spec__", None) for x in ("keras", "tensorflow"))
        if any(getattr(spec, "_initializing", False) for spec in specs):
            raise ModuleNotFoundError(f"{fullname} is not imported for Keras", name=fullname)


def leave_out_extras_of_keras() -> None:
    """Makes a later import of Keras faster: without its scikit-learn wrappers and galleries.

    For processes that are a command of ours. A program of somebody else may need them.
    """
    sys.meta_path.insert(0, _KerasWithoutExtras())


def import_tensorflow() -> None:
    """Imports TensorFlow and Keras with the environment variables that all commands need.

    Standard error is captured during the import. Lines that are not startup messages are printed
    afterwards.

    Python's garbage collector is off during the import, and ignores afterwards what it created: a
    million objects that stay until the process ends, through which it would search again and again.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ["KERAS_BACKEND"] = "tensorflow"
    sys.stderr.flush()
    terminal = os.dup(2)
    collects = gc.isenabled()
    gc.disable()
    with tempfile.TemporaryFile() as captured:
        os.dup2(captured.fileno(), 2)
        try:
            import keras  # noqa: F401
            import tensorflow as tf

            tf.config.list_logical_devices  # noqa: B018
        finally:
            gc.freeze()
            if collects:
                gc.enable()
            sys.stderr.flush()
            os.dup2(terminal, 2)
            os.close(terminal)
            captured.seek(0)
            for line in captured:
                if not _NOISE.match(line):
                    with suppress(OSError):  # standard error may be closed
                        os.write(2, line)
