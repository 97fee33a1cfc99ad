"""The images on which an export is compared with its run."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice

import numpy as np
import tensorflow as tf

from pipeline.config import Config, DataConfig
from pipeline.data.decode.header import read_headers
from pipeline.data.decode.unreadable import UnreadableError
from pipeline.data.encode import encode_image, to_png
from pipeline.data.images import load_image
from pipeline.data.sources.source import open_source
from pipeline.data.split import Split
from pipeline.errors import DataError, PipelineError, SettingsError
from pipeline.export.exported import Exported
from pipeline.export.sample_images import sample_images
from pipeline.export.write import Reference

_LOG = logging.getLogger(__name__)

_OWN_IMAGES = 32  # The most images of the run's data set that are compared.


def compare_with_run(
    config: Config, model: Exported, foreign_data: str | None
) -> tuple[Reference, str]:
    """Returns images with the run's answers, and a description of the images.

    Generated images are always used, so that no data set is needed. Images of the run's own data
    set are added if they are still in their place.

    Args:
      model: The run's own model.
      foreign_data: Recorded place of the data set, if another user may have chosen it.
    """
    contents = sample_images(config.data)
    description = f"{len(contents)} generated images"
    try:
        if foreign_data is not None and config.data.path is None:
            raise SettingsError(
                "the run belongs to another user, so its data.path is not used: add "
                f"--set data.path={foreign_data} to use it"
            )
        source = open_source(config.data, config.seed)
    except (PipelineError, OSError) as error:
        # The rest of the message suggests settings that `vit export` does not take.
        reason = str(error).partition(". ")[0]
        _LOG.warning("compared without the run's data: %s", reason)
    else:
        for note in source.notes:
            _LOG.info("%s", note)
        split = next(
            source.splits[s] for s in ("test", "validation", "train") if s in source.splits
        )
        own = list(islice(_readable_images(split, config.data), _OWN_IMAGES))
        contents += own
        if own:
            description += f" and {len(own)} of {split.title}"
        else:
            _LOG.warning("%s: no image can be read", split.title)
    # The same preprocessing as in `vit predict`.
    pixels = np.stack([load_image(c, "a compared image", config.data) for c in contents])
    return Reference(contents, pixels, model.predict(pixels)), description


def _readable_images(split: Split, config: DataConfig) -> Iterator[bytes]:
    """Yields the images of a split as JPEG or PNG, without those that run or export refuse."""
    for i in range(split.num_examples):
        with suppress(OSError, DataError, UnreadableError):
            if split.images is not None:
                content = to_png(split.images[i])
            else:
                content = encode_image(split.content(i), config.max_pixels).content
            load_image(content, split.name(i), config)
            # `encode_image` does not convert JPEGs with arithmetic coding. Pillow reads these, but
            # TensorFlow, and therefore a SavedModel, does not.
            if read_headers(tf.constant([content])).by_tensorflow[0]:
                yield content
