"""The state of the training loop apart from variables, which is the same on all processes."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from pipeline.training.position import TrainingPosition


@dataclass
class RunState:
    """What the training loop knows.

    Attributes:
      step: Number of steps.
      actions: Number of actions after this step that are complete (`step_actions`).
      position: The training state that is saved with each checkpoint.
      epoch_is_new: Whether callbacks have not been told yet that the epoch has begun.
      weights_are_bad: Whether the weights were not finite when they were to be saved.
      rolled_back_to: Step of the checkpoint of the last rollback.
      returns: Number of consecutive rollbacks to that checkpoint.
    """

    step: int = 0
    actions: int = 0
    position: TrainingPosition = field(default_factory=TrainingPosition)
    epoch_is_new: bool = True
    weights_are_bad: bool = False
    rolled_back_to: int | None = None
    returns: int = 0

    @property
    def progress(self) -> list[int]:
        """Rollbacks, steps, and actions; processes that have done more have more."""
        return [self.position.rollbacks, self.step, self.actions]

    def as_message(self) -> dict[str, Any]:
        """The state as JSON-serializable values, for another process."""
        return asdict(self)

    def take(self, message: dict[str, Any]) -> None:
        """Takes over the state that `as_message` described."""
        for name, value in message.items():
            setattr(self, name, value)
        self.position = TrainingPosition(**message["position"])
