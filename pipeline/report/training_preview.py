"""Examples of a prepared set as training sees them: augmented, and cut into patches."""

from __future__ import annotations

from pathlib import Path

from pipeline.config import Config
from pipeline.data.images import bad_images_named, load_example
from pipeline.data.input import augmented_examples
from pipeline.data.sources.source import open_source
from pipeline.data.split import first_of_classes
from pipeline.model.architecture import architecture, check_patches
from pipeline.monitor.preview import PreviewRow, draw_preview

_ROWS, _EPOCHS = 8, 5


def preview_training(prepared: Path, config: Config, file: Path) -> None:
    """Draws one example of each of the first classes, augmented as in the first epochs.

    Args:
      prepared: The folder of a prepared set.
      config: Settings of the augmentation and of the model's patches.
      file: The PNG file to write.
    """
    data = config.data.model_copy(update={"source": "records", "path": str(prepared)})
    source = open_source(data, config.seed)
    patch_size = architecture(config.model).patch_size
    check_patches(data.image_size, patch_size)
    split = source.splits["train"]
    indices = first_of_classes(split.labels, _ROWS)
    with bad_images_named():
        augmented = augmented_examples(
            split, data, seed=config.seed, epochs=_EPOCHS, indices=indices
        )
    rows = [
        PreviewRow(source.classes[split.labels[index]], load_example(split, index, data), images)
        for index, images in zip(indices, augmented, strict=True)
    ]
    title = f"{prepared}, as {config.run_dir.name} trains it"
    draw_preview(rows, patch_size, title, file)
