"""The `monitor` section."""

from __future__ import annotations

from pydantic import model_validator

from pipeline.config.section import Section, setting


class MonitorConfig(Section):
    """What a run shows, in addition to its metrics."""

    report: bool = setting(True, "Write report.html when training has finished.", may_change=True)
    pictures: bool = setting(
        True,
        "Write images of batches, position embeddings and attention for TensorBoard.",
        may_change=True,
    )
    profile_steps: tuple[int, int] | None = setting(
        None,
        "First and last step to profile, for example [100,110]. TensorBoard's profile page shows "
        "the trace.",
        may_change=True,
    )
    peak_tflops: float | None = setting(
        None,
        "Peak performance of one device in TFLOP/s, used to report the fraction of it that is "
        "reached. null: measured once.",
        may_change=True,
        gt=0,
    )

    @model_validator(mode="after")
    def _check_profile_steps(self) -> MonitorConfig:
        if (
            self.profile_steps is not None
            and not 0 <= self.profile_steps[0] < self.profile_steps[1]
        ):
            raise ValueError(
                "monitor.profile_steps must be a first step and a later last step, for example "
                f"[100,110]. Received: {list(self.profile_steps)}"
            )
        return self
