"""The `train` section."""

from __future__ import annotations

from typing import Literal

from pipeline.config.section import LONGEST_TIME_S, Section, setting


class TrainConfig(Section):
    """How long to train, when to evaluate, and how to compute."""

    epochs: float = setting(10.0, "Number of passes over the training data.", gt=0, le=1e6)
    max_steps: int | None = setting(None, "Total number of updates; overrides epochs.", ge=1)
    max_time_s: float | None = setting(
        None,
        "Save a checkpoint and stop after this many seconds, counted from this start.",
        may_change=True,
        gt=0,
        le=LONGEST_TIME_S,
    )
    log_every_steps: int = setting(
        50, "Number of steps between rows of metrics.", may_change=True, ge=1
    )
    evaluate_every_epochs: float | None = setting(
        1.0, "Number of epochs between evaluations.", gt=0, le=1e6
    )
    evaluate_every_steps: int | None = setting(
        None, "Number of steps between evaluations; overrides evaluate_every_epochs.", ge=1
    )
    evaluate_ema: bool = setting(
        True, "Evaluate the averaged weights if optim.ema_momentum is set."
    )
    best_by: Literal["accuracy", "loss"] = setting(
        "accuracy", "Validation metric that selects the best weights."
    )
    early_stopping: int | None = setting(
        None, "Stop after this many evaluations without improvement. null: never.", ge=1
    )
    precision: Literal["auto", "float32", "mixed_bfloat16", "mixed_float16"] = setting(
        "float32",
        "Number format for computation; weights are always float32. auto: mixed_bfloat16 if all "
        "devices compute fast with it (GPUs with compute capability 8.0 or higher, x86 CPUs with "
        "avx512_bf16 or amx_bf16), otherwise float32.",
        may_change=True,
    )
    recompute: bool = setting(
        False,
        "Activation checkpointing: store only the input of each block and recompute the rest in "
        "the backward pass. Uses less memory and about a third more computation.",
        may_change=True,
    )
    xla: Literal["auto", "always", "never"] = setting(
        "auto",
        "Compile the forward and backward pass with XLA. auto: on a single GPU, time both variants "
        "at the start and use the faster one; on a CPU, compile only chains of small operations, "
        "such as GELU and layer normalization.",
        may_change=True,
    )
    deterministic: bool = setting(
        False,
        "Produce bit-identical weights in every run, on any number of workers and every runtime.",
    )
    microbatches: int | None = setting(
        None,
        "Number of equal parts into which the global batch is divided, on any number of workers. "
        "Each worker computes whole parts, so at most this many workers can train. Dropout draws "
        "for each part, so the number affects the result. Elastic jobs need it. null: with "
        "train.deterministic the largest number up to 8 that divides the batch, otherwise the "
        "batch is divided by the number of workers.",
        ge=1,
        le=1024,
    )
    max_bad_steps: int = setting(
        10,
        "A step whose loss or gradient is not finite is skipped. After this many such steps in a "
        "row, the run goes back to its last checkpoint and skips that part of the data.",
        may_change=True,
        ge=1,
    )
    max_rollbacks: int = setting(
        3,
        "How many times the run may go back to a checkpoint before it fails.",
        may_change=True,
        ge=0,
    )
    hang_timeout_s: float | None = setting(
        600.0,
        "A process without progress for this many seconds prints its stack traces and exits. null: "
        "no limit.",
        may_change=True,
        gt=0,
        le=LONGEST_TIME_S,
    )
    compile_timeout_s: float = setting(
        1800.0,
        "Additional seconds that are allowed when a graph must be traced and compiled first.",
        may_change=True,
        ge=0,
        le=LONGEST_TIME_S,
    )
    callbacks: tuple[str, ...] = setting(
        (),
        "Keras callbacks, each as module:factory; they run on the chief. A single one needs no "
        "brackets. A module that is not installed is loaded from the current folder.",
        may_change=True,
    )
