"""What stands beside the weights of every export: classes, preprocessing, architecture."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.config import Config, DataConfig
from pipeline.errors import SettingsError
from pipeline.model.architecture import Architecture
from pipeline.model.cost import parameters

FACTS_BYTES = 16 * 2**20  # at most
# Sizes of networks that are looked at, far above those of any that was published.
_LARGEST, _DEEPEST = 2**20, 1000
FILE = "export.json"  # its name, where it is a file of its own inside an export


class _Facts(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Preprocessing(_Facts):
    """How an image becomes what the model takes; names and meanings are those of `data.*`.

    Attributes:
      image_size: S, height and width of the pixels.
      mean: Of the training pixels, a channel, in units of 0..1; part of the export's graph.
      std: Likewise.
    """

    image_size: int
    resize: Literal["none", "squash", "crop"]
    crop_fraction: float
    antialias: bool
    max_pixels: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def data_config(self) -> DataConfig:
        """The same as settings, for the functions that decode and resize."""
        return DataConfig(**self.model_dump(exclude={"mean", "std"}))


class ExportFacts(_Facts):
    """All that an export says of itself.

    Attributes:
      classes: C names, in the order of the probabilities.
      preprocessing: From a file to pixels, and from pixels to what the network sees.
      architecture: Of the network.
      weights_of_step: Which of the run's.
    """

    classes: tuple[str, ...]
    preprocessing: Preprocessing
    architecture: Architecture
    weights_of_step: int

    @classmethod
    def of_run(
        cls, config: Config, dataset: dict[str, Any], architecture: Architecture, step: int
    ) -> ExportFacts:
        """Those of a run.

        Args:
          config: Its settings.
          dataset: Its dataset.json.
          architecture: Of its model.
          step: Of its weights.
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
        """As `from_json` reads it."""
        return self.model_dump_json(indent=1) + "\n"


def from_json(text: str | bytes, where: str) -> ExportFacts:
    """The facts that stand in an export.

    Raises:
      SettingsError: They are not what `vit export` writes; `where` is said.
    """
    try:
        facts = ExportFacts.model_validate_json(text)
        facts.preprocessing.data_config()  # its limits are those of the settings
        return facts
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise SettingsError(
            f"{where} is not what `vit export` writes: {place + ': ' if place else ''}"
            f"{first['msg']}"
        ) from None


def fits(facts: ExportFacts, numbers: int) -> bool:
    """Whether a network that need not be built has so many weights.

    Args:
      facts: From elsewhere, with any sizes.
      numbers: Of its weights.
    """
    arch, size = facts.architecture, facts.preprocessing.image_size
    positive = (size, arch.patch_size, arch.width, arch.depth, arch.num_heads, arch.mlp_dim)
    sizes = (*positive, arch.head_size, arch.pre_logits, *arch.head_dims)
    if min(positive) < 1 or min(sizes) < 0 or max(sizes) > _LARGEST or arch.depth > _DEEPEST:
        return False
    return parameters(arch, size, len(facts.classes)) == numbers


def no_facts(where: str) -> SettingsError:
    """The error for a model that says nothing of its classes and preprocessing."""
    return SettingsError(
        f"{where} does not say its classes and preprocessing: it was not written by `vit export`, "
        "or by an older one. Export the run again"
    )
