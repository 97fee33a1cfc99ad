"""The `optim` section."""

from __future__ import annotations

from typing import Literal

from pipeline.config.section import Section, setting
from pipeline.config.value_parser import PluginName


class OptimConfig(Section):
    """AdamW, its learning rate schedule, and how gradients are processed."""

    base_lr: float = setting(1e-3, "Learning rate for a batch size of 256.", gt=0)
    lr_scaling: Literal["linear", "sqrt", "none"] = setting(
        "linear", "How the learning rate scales with data.global_batch_size / 256."
    )
    schedule: Literal["cosine", "constant"] = setting(
        "cosine", "Learning rate schedule after the warm-up."
    )
    warmup_epochs: float = setting(0.0, "Number of epochs of linear warm-up.", ge=0, le=1e6)
    warmup_steps: int | None = setting(
        None, "Number of steps of linear warm-up; overrides warmup_epochs.", ge=0
    )
    final_lr_fraction: float = setting(
        0.0, "Final learning rate of the cosine schedule, as a fraction of the peak.", ge=0, le=1
    )
    weight_decay: float = setting(
        0.05, "Decoupled weight decay; it is multiplied by the learning rate.", ge=0
    )
    beta_1: float = setting(0.9, "Decay rate of the first moment.", ge=0, lt=1)
    beta_2: float = setting(0.999, "Decay rate of the second moment.", ge=0, lt=1)
    epsilon: float = setting(1e-8, "Constant added to the root of the second moment.", gt=0)
    clip_norm: float | None = setting(1.0, "Maximum global gradient norm. null: no clipping.", gt=0)
    ema_momentum: float | None = setting(
        None,
        "Momentum of the exponential moving average (EMA) of the weights. null: no average is "
        "kept.",
        gt=0,
        lt=1,
    )
    layer_decay: float | None = setting(
        None,
        "Layer-wise learning rate decay: the learning rate of a block, as a fraction of the next "
        "block's. 0.65 to 0.75 is usual for fine-tuning a B/16. null: the same rate for all.",
        gt=0,
        le=1,
    )
    freeze: tuple[str, ...] = setting(
        (),
        "Patterns of parameters that are not trained, for example "
        "[vit/patch_embedding/*,vit/block_0/*].",
    )
    linear_probe: bool = setting(False, "Train only the classifier.")
    accumulate_steps: int = setting(
        1,
        "Gradient accumulation: number of parts into which a batch is split to save memory.",
        may_change=True,
        ge=1,
        le=2**20,
    )
    loss: PluginName | None = setting(
        None,
        "Training loss of your own, as module:function. null: softmax cross-entropy. Evaluation "
        "always reports cross-entropy.",
    )
