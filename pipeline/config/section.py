"""What all sections of a recipe have in common."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from pipeline.config.value_parser import parse_value

# 30 years. The system clock can add this to the current time without an overflow.
LONGEST_TIME_S = 1e9


class Section(BaseModel):
    """Base class of all sections: immutable, and unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @field_validator("*", mode="before")
    @classmethod
    def _parse_by_type(cls, value: Any, info: ValidationInfo) -> Any:
        return parse_value(value, cls.model_fields[str(info.field_name)].annotation)


def setting(default: Any, description: str, *, may_change: bool = False, **limits: Any) -> Any:
    """Declares one setting of a section.

    Args:
      default: The default value.
      description: The text in `vit train --help` and in the documentation.
      may_change: Whether a run may be resumed with a different value.
      **limits: Limits that pydantic checks, such as `ge=1`.
    """
    return Field(
        default, description=description, json_schema_extra={"may_change": may_change}, **limits
    )
