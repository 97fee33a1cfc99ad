"""Rows of metrics, compared between runs."""

# How fast it went, and on what, is not part of what is trained.
TIMINGS = (
    "checkpoint_s",
    "examples_per_second",
    "examples_per_second_per_replica",
    "host_memory_bytes",
    "input_wait_fraction",
    "all_reduce_wait_s",
    "model_flops_per_second",
    "peak_fraction",
    "step_median_s",
    "step_p95_s",
)


def without_timings(row):
    """A row without what differs from run to run."""
    return {name: value for name, value in row.items() if name not in TIMINGS}
