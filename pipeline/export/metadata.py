"""The metadata of every export: classes, preprocessing, architecture."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.config import Config, DataConfig
from pipeline.errors import SettingsError
from pipeline.model.architecture import Architecture
from pipeline.model.cost import parameters

MAX_METADATA_BYTES = 16 * 2**20  # upper limit
# Upper limits of network sizes, far above those of any published network.
_MAX_SIZE, _MAX_DEPTH = 2**20, 1000
FILE = "export.json"  # name of the metadata file, in formats that have one


class _FrozenModel(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Preprocessing(_FrozenModel):
    """How an image file becomes the input of the model. Names and meanings are those of `data.*`.

    Attributes:
      image_size: S, height and width of the input in pixels.
      mean: Mean of the training pixels per channel, in the range 0 to 1. The exported graph
        contains the normalization.
      std: Standard deviation of the training pixels, likewise.
    """

    image_size: int
    resize: Literal["none", "squash", "crop"]
    crop_fraction: float
    antialias: bool
    max_pixels: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def data_config(self) -> DataConfig:
        """Converts it to settings, for the functions that decode and resize."""
        return DataConfig(**self.model_dump(exclude={"mean", "std"}))


class ExportMetadata(_FrozenModel):
    """The metadata of an export.

    Attributes:
      classes: C names, in the order of the probabilities.
      preprocessing: From an image file to the input of the network.
      architecture: Shape of the network; None for a model of `model.builder`.
      weights_of_step: Training step of the weights.
    """

    classes: tuple[str, ...]
    preprocessing: Preprocessing
    architecture: Architecture | None
    weights_of_step: int

    @classmethod
    def of_run(
        cls, config: Config, dataset: dict[str, Any], architecture: Architecture | None, step: int
    ) -> ExportMetadata:
        """Collects the metadata of a run.

        Args:
          config: Settings of the run.
          dataset: Contents of its dataset.json.
          architecture: Shape of its model.
          step: Training step of the weights.
        """
        data = config.data
        preprocessing = Preprocessing(
            image_size=data.image_size,
            resize=data.resize,
            crop_fraction=data.crop_fraction,
            antialias=data.antialias,
            max_pixels=data.max_pixels,
            mean=dataset["mean"],
            std=dataset["std"],
        )
        return cls(
            classes=dataset["classes"],
            preprocessing=preprocessing,
            architecture=architecture,
            weights_of_step=step,
        )

    def to_json(self) -> str:
        """Serializes the metadata for `from_json`."""
        return self.model_dump_json(indent=1) + "\n"


def from_json(text: str | bytes, where: str) -> ExportMetadata:
    """Parses the metadata of an export.

    Args:
      text: JSON.
      where: The file, for error messages.

    Raises:
      SettingsError: The text was not written by `vit export`.
    """
    try:
        metadata = ExportMetadata.model_validate_json(text)
        metadata.preprocessing.data_config()  # raises if a value is out of range
        return metadata
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise SettingsError(
            f"{where} was not written by `vit export`: {place + ': ' if place else ''}"
            f"{first['msg']}"
        ) from None


def has_parameter_count(metadata: ExportMetadata, numbers: int) -> bool:
    """Whether the described network has this number of parameters. It is not built.

    Args:
      metadata: Metadata from an untrusted file; sizes may be arbitrary.
      numbers: Number of parameters in the file.
    """
    arch, size = metadata.architecture, metadata.preprocessing.image_size
    if arch is None:
        return False
    positive = (size, arch.patch_size, arch.width, arch.depth, arch.num_heads, arch.mlp_dim)
    sizes = (*positive, arch.head_size, arch.pre_logits, *arch.head_dims)
    if min(positive) < 1 or min(sizes) < 0 or max(sizes) > _MAX_SIZE or arch.depth > _MAX_DEPTH:
        return False
    return parameters(arch, size, len(metadata.classes)) == numbers


def missing_metadata(where: str) -> SettingsError:
    """The error for a model without classes and preprocessing."""
    return SettingsError(
        f"{where} does not say its classes and preprocessing: it was not written by `vit export`, "
        "or by an older version. Export the run again"
    )
