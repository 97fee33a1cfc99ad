"""The settings: one frozen, validated class per section of a recipe."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticUndefined

from pipeline.config.values import LocalPath, is_section, read_value
from pipeline.errors import SettingsError
from pipeline.printable import received

# The named variants; pipeline/model/architecture.py holds their sizes.
VARIANT_PATTERN = r"(Ti|S|B|L)/[1-9]\d{0,3}|digits|cifar|keras_example"

# In seconds: 30 years, which the system's clocks can add to the time of day.
_LONGEST_S = 1e9


def _setting(default: Any, doc: str, *, free: bool = False, **limits: Any) -> Any:
    """A setting with its meaning; `free` ones may differ when a run is resumed."""
    return Field(default, description=doc, json_schema_extra={"free": free}, **limits)


class _Stage(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    @field_validator("*", mode="before")
    @classmethod
    def _read_by_type(cls, value: Any, info: ValidationInfo) -> Any:
        return read_value(value, cls.model_fields[str(info.field_name)].annotation)


class RunConfig(_Stage):
    """Where the run is kept."""

    dir: LocalPath | None = _setting(None, "run folder; null means runs/<recipe>", free=True)


class AugmentConfig(_Stage):
    """Random changes to training images, drawn from (seed, epoch, example)."""

    resized_crop_min_area: float | None = _setting(
        None,
        "cut out a random box of at least this part of the image's area and of aspect ratio 3/4 to "
        "4/3, and resize it (0.08 in ImageNet recipes); null: see what evaluation sees",
        gt=0,
        le=1,
    )
    flip: bool = _setting(False, "mirror left to right, one time in two")
    crop_padding: int = _setting(0, "pad by this many pixels, then crop at random", ge=0, le=4096)
    rotation: float = _setting(0.0, "rotate by up to this part of a full turn", ge=0, le=0.5)
    zoom: float = _setting(0.0, "zoom height and width by up to this part", ge=0, lt=1)
    rand_augment_layers: int = _setting(0, "operations of RandAugment, its N; 0: none", ge=0, le=16)
    rand_augment_magnitude: float = _setting(9.0, "how strong they are, its M", ge=0, le=10)
    three_augment: bool = _setting(False, "DeiT III's: make grey, solarize or blur, one of them")
    color_jitter: float = _setting(
        0.0, "change brightness, contrast and saturation by up to this part", ge=0, le=1
    )
    erasing: float = _setting(0.0, "probability that a rectangle is erased", ge=0, le=1)


class DataConfig(_Stage):
    """Where the examples come from and what is done to them."""

    source: Literal[
        "digits",
        "cifar10",
        "cifar100",
        "fashion_mnist",
        "image_folder",
        "list",
        "records",
        "tfrecord",
        "synthetic",
    ] = _setting("digits", "kind of data set; records: what vit prepare wrote")
    path: LocalPath | None = _setting(None, "folder, archive or list of the data set", free=True)
    tfrecord_image_key: str = _setting("image/encoded", "feature of a TFRecord that is the image")
    tfrecord_label_key: str = _setting("image/class/label", "feature of a TFRecord: its label")
    # Free: a run compares the labels themselves, and the label that is class 0, with its record.
    first_label: Literal[0, 1] | None = _setting(
        None,
        "label of class 0 in TFRecords; null: as the files show, else an error",
        free=True,
    )
    index_path: LocalPath | None = _setting(
        None, "folder for the index of TFRecord files; null: beside them", free=True
    )
    allow_changes: bool = _setting(
        False, "resume a run although the images of its data set have changed", free=True
    )
    links_out: bool = _setting(
        False, "allow links, and paths in lists, that lead out of the data set's folder", free=True
    )
    image_size: int = _setting(32, "height and width the model sees, in pixels", ge=1, le=4096)
    resize: Literal["none", "squash", "crop"] = _setting(
        "squash",
        "none: images already have the size; squash: resize, ignoring the aspect ratio; "
        "crop: the square in the centre, resized",
    )
    crop_fraction: float = _setting(
        1.0,
        "side of that square, as a part of the image's short side (0.875: 224 of 256)",
        gt=0,
        le=1,
    )
    antialias: bool = _setting(
        True, "smooth where images shrink, as Pillow does; false is faster and coarser"
    )
    max_pixels: int = _setting(
        100_000_000,
        "an image that says it has more is refused before it is decoded",
        ge=1,
        le=10**10,
    )
    global_batch_size: int = _setting(256, "examples an update, over all replicas", ge=1, le=2**20)
    eval_batch_size: int | None = _setting(
        None, "examples an evaluation step; null means global_batch_size", free=True, ge=1, le=2**20
    )
    num_classes: int = _setting(10, "classes of the synthetic data", ge=2, le=2**20)
    num_examples: int = _setting(1024, "training examples of the synthetic data", ge=1, le=10**9)
    validation_fraction: float = _setting(
        0.1,
        "part of the training data held out where the data set has no validation split",
        gt=0,
        lt=1,
    )
    validation_split: Literal["hash", "last"] = _setting(
        "hash", "hold out by a fixed hash of the example, or the last part"
    )
    normalize: Literal["half", "imagenet", "dataset"] = _setting(
        "half", "mean and deviation: 0.5 and 0.5, ImageNet's, or measured on the training data"
    )
    on_bad_image: Literal["raise", "skip"] = _setting(
        "raise", "an unreadable image ends the run, or is left out, counted and listed", free=True
    )
    label_smoothing: float = _setting(0.0, "part of the target spread over all classes", ge=0, lt=1)
    mixup_alpha: float = _setting(
        0.0, "mixes pairs of examples by Beta(alpha, alpha); 0: does not", ge=0, le=1000
    )
    cutmix_alpha: float = _setting(
        0.0,
        "pastes a box of the partner, its area from Beta(alpha, alpha); 0: does not",
        ge=0,
        le=1000,
    )
    cutmix_probability: float = _setting(
        0.5, "part of the pairs that CutMix takes where mixup is on as well", ge=0, le=1
    )
    mix_probability: float = _setting(
        1.0, "part of the pairs that mixup or CutMix changes at all", ge=0, le=1
    )
    augment: AugmentConfig = _setting(AugmentConfig(), "random changes to training images")
    threads: int | None = _setting(
        None, "threads of the input stage; null: as many as cores", free=True, ge=1, le=1024
    )


class ModelConfig(_Stage):
    """The Vision Transformer: a named variant, and what to change in it."""

    variant: str = _setting(
        "cifar", "Ti/16, S/16, B/16, L/16 (any patch size), digits, cifar or keras_example"
    )
    patch_size: int | None = _setting(
        None, "pixels a side of a patch; null: the variant's", ge=1, le=4096
    )
    width: int | None = _setting(None, "length of a token; null: the variant's", ge=1, le=2**16)
    depth: int | None = _setting(None, "encoder blocks; null: the variant's", ge=1, le=1000)
    num_heads: int | None = _setting(None, "attention heads; null: the variant's", ge=1, le=1000)
    mlp_dim: int | None = _setting(
        None, "hidden units of a block's MLP; null: variant's", ge=1, le=2**18
    )
    stem: Literal["patches", "convolutions"] = _setting(
        "patches",
        "what makes tokens: each patch by itself; or 3 x 3 convolutions of stride 2, with which a "
        "network learns faster from few images",
    )
    pool: Literal["token", "mean", "flatten"] | None = _setting(
        None, "what the head sees: class token, mean of the tokens, or all; null: the variant's"
    )
    positions: Literal["learned", "sincos2d"] = _setting("learned", "position embedding")
    gelu: Literal["exact", "tanh"] = _setting("exact", "form of the GELU")
    pre_logits: int = _setting(
        0, "units of a tanh layer before the classifier; 0: none", ge=0, le=2**16
    )
    dropout: float | None = _setting(None, "dropout; null: the variant's", ge=0, lt=1)
    attention_dropout: float | None = _setting(
        None, "dropout of the attention's probabilities; null: the variant's", ge=0, lt=1
    )
    stochastic_depth: float = _setting(
        0.0,
        "probability to skip the last block's branches, growing linearly with depth",
        ge=0,
        lt=1,
    )

    pretrained: LocalPath | None = _setting(
        None,
        "what the weights are to start from: a run folder (its best ones), or a published ViT's "
        ".npz, .safetensors or folder, which `vit pretrained list` names",
    )

    @model_validator(mode="after")
    def _variant_is_known(self) -> ModelConfig:
        if not re.fullmatch(VARIANT_PATTERN, self.variant, re.ASCII):
            raise ValueError(
                "model.variant must be Ti/P, S/P, B/P or L/P with a patch size P, digits, cifar "
                f"or keras_example. Received: {received(self.variant)}"
            )
        return self


class OptimConfig(_Stage):
    """AdamW, its learning-rate schedule and what is done to gradients."""

    base_lr: float = _setting(1e-3, "learning rate for 256 images a batch", gt=0)
    lr_scaling: Literal["linear", "sqrt", "none"] = _setting(
        "linear", "how the rate grows with global_batch_size / 256"
    )
    schedule: Literal["cosine", "constant"] = _setting("cosine", "after the warm-up")
    warmup_epochs: float = _setting(0.0, "epochs of linear warm-up", ge=0, le=1e6)
    warmup_steps: int | None = _setting(None, "the same in steps; overrides warmup_epochs", ge=0)
    final_lr_fraction: float = _setting(
        0.0, "where the cosine ends, as a part of the peak", ge=0, le=1
    )
    weight_decay: float = _setting(0.05, "decoupled decay, multiplied by the learning rate", ge=0)
    beta_1: float = _setting(0.9, "decay of the first moment", ge=0, lt=1)
    beta_2: float = _setting(0.999, "decay of the second moment", ge=0, lt=1)
    epsilon: float = _setting(1e-8, "added to the root of the second moment", gt=0)
    clip_norm: float | None = _setting(1.0, "largest global gradient norm; null: no limit", gt=0)
    ema_momentum: float | None = _setting(
        None, "momentum of the averaged weights; null: none are kept", gt=0, lt=1
    )
    layer_decay: float | None = _setting(
        None,
        "learning rate of a block as a part of the next one's (0.65 to 0.75 to fine-tune a B/16); "
        "null: the same for all",
        gt=0,
        le=1,
    )
    freeze: tuple[str, ...] = _setting(
        (), "parameters that are not trained, as [vit/patch_embedding/*,vit/block_0/*]"
    )
    linear_probe: bool = _setting(False, "train the classifier alone")
    accumulate_steps: int = _setting(
        1, "parts an update's batch is computed in, for less memory", free=True, ge=1, le=2**20
    )


class TrainConfig(_Stage):
    """How long to train, and when to look."""

    epochs: float = _setting(10.0, "passes over the training data", gt=0, le=1e6)
    max_steps: int | None = _setting(None, "updates in all; overrides epochs", ge=1)
    max_time_s: float | None = _setting(
        None,
        "stop after this many seconds of this start, with a checkpoint",
        free=True,
        gt=0,
        le=_LONGEST_S,
    )
    log_every_steps: int = _setting(50, "steps between rows of metrics", free=True, ge=1)
    evaluate_every_epochs: float | None = _setting(1.0, "epochs between evaluations", gt=0, le=1e6)
    evaluate_every_steps: int | None = _setting(
        None, "steps between evaluations; overrides evaluate_every_epochs", ge=1
    )
    evaluate_ema: bool = _setting(
        True, "evaluate the averaged weights where optim.ema_momentum keeps them"
    )
    best_by: Literal["accuracy", "loss"] = _setting("accuracy", "validation measure of the best")
    early_stopping: int | None = _setting(
        None, "stop after this many evaluations without a better one; null: never", ge=1
    )
    precision: Literal["auto", "float32", "mixed_bfloat16", "mixed_float16"] = _setting(
        "float32",
        "numbers the model computes in; weights stay float32. auto: mixed_bfloat16 where all "
        "devices are fast at it (GPUs of compute capability 8.0 or more, x86 CPUs with "
        "avx512_bf16 or amx_bf16), else float32",
        free=True,
    )
    recompute: bool = _setting(
        False,
        "keep of each block its input alone, and compute it again on the way back: less memory, a "
        "third more arithmetic",
        free=True,
    )
    xla: Literal["auto", "always", "never"] = _setting(
        "auto",
        "compile a step's forward and backward pass with XLA; auto: on one GPU what is faster, "
        "timed at the start; on a CPU the chains of operations in it alone (README)",
        free=True,
    )
    deterministic: bool = _setting(False, "the same bits from run to run, at some speed")
    max_bad_steps: int = _setting(
        10,
        "so many steps in a row whose loss or gradient is not finite, each of them skipped, send "
        "the run back to its last checkpoint, and past that stretch of data",
        free=True,
        ge=1,
    )
    max_rollbacks: int = _setting(3, "how often, before the run ends", free=True, ge=0)
    hang_timeout_s: float | None = _setting(
        600.0,
        "a process that does nothing for so long says where it stands, and ends; null: waits on",
        free=True,
        gt=0,
        le=_LONGEST_S,
    )
    compile_timeout_s: float = _setting(
        1800.0,
        "so much longer where a graph is traced and compiled first",
        free=True,
        ge=0,
        le=_LONGEST_S,
    )
    callbacks: tuple[str, ...] = _setting(
        (),
        "keras.callbacks, each as module:factory, called on the chief; one needs no brackets. A "
        "module that is not installed is looked for in the current folder",
        free=True,
    )


class DistributeConfig(_Stage):
    """The devices and processes that train. `compression` alone changes what is trained."""

    runtime: Literal["auto", "single", "mirrored", "horovod", "multi_worker"] = _setting(
        "auto",
        "single: one device; mirrored: all of this machine; horovod, multi_worker: processes that "
        "were started together; auto: what is there",
        free=True,
    )
    device: Literal["auto", "gpu"] = _setting(
        "auto",
        "gpu: refuse to train where TensorFlow sees none, instead of on the CPU",
        free=True,
    )
    compression: Literal["none", "float16"] = _setting(
        "none", "numbers in which Horovod sends gradients"
    )
    cpu_devices: int = _setting(
        1,
        "logical devices the CPU is divided into, to try mirrored without GPUs",
        free=True,
        ge=1,
        le=1024,
    )
    intra_op_threads: int | None = _setting(
        None,
        "threads of one operation; null: TensorFlow's choice, but on a CPU of up to 8 cores one, "
        "with parts of the batch side by side, one a core",
        free=True,
        ge=1,
        le=1024,
    )


class CheckpointConfig(_Stage):
    """When the run is saved, and what is kept."""

    every_steps: int | None = _setting(None, "steps between checkpoints", free=True, ge=1)
    every_s: float | None = _setting(
        None, "seconds between checkpoints", free=True, gt=0, le=_LONGEST_S
    )
    every_epochs: float | None = _setting(
        1.0, "epochs between checkpoints", free=True, gt=0, le=1e6
    )
    keep: int = _setting(2, "newest checkpoints kept, beside the best", free=True, ge=1, le=10**6)
    keep_every_steps: int | None = _setting(
        None, "keep those of a multiple of this many steps as well", free=True, ge=1
    )
    grace_s: float = _setting(
        45.0,
        "from a signal to the end of the process: what schedulers call the grace period must be "
        "longer, and so must vit launch --grace-s",
        free=True,
        gt=0,
        le=_LONGEST_S,
    )


class MonitorConfig(_Stage):
    """What people see of a run, beside its rows of metrics."""

    report: bool = _setting(True, "write report.html when training has ended", free=True)
    pictures: bool = _setting(
        True, "draw batches, positions and attention for TensorBoard", free=True
    )
    profile_steps: tuple[int, int] | None = _setting(
        None,
        "first and last step, as [100,110], of which a trace is recorded for TensorBoard's profile "
        "page",
        free=True,
    )
    peak_tflops: float | None = _setting(
        None,
        "10^12 operations a second that one device can do at most, of which the share that is "
        "reached is shown; null: measured once",
        free=True,
        gt=0,
    )

    @model_validator(mode="after")
    def _profile_steps_are_in_order(self) -> MonitorConfig:
        if (
            self.profile_steps is not None
            and not 0 <= self.profile_steps[0] < self.profile_steps[1]
        ):
            raise ValueError(
                "monitor.profile_steps must be a first and a later step, as [100,110]. Received: "
                f"{list(self.profile_steps)}"
            )
        return self


class Config(_Stage):
    """All settings of a run."""

    seed: int = _setting(0, "seed of weights, order, augmentation and dropout", ge=0, lt=2**31)
    run: RunConfig = _setting(RunConfig(), "where the run is kept")
    data: DataConfig = _setting(DataConfig(), "the examples")
    model: ModelConfig = _setting(ModelConfig(), "the network")
    optim: OptimConfig = _setting(OptimConfig(), "the optimizer")
    train: TrainConfig = _setting(TrainConfig(), "the loop")
    distribute: DistributeConfig = _setting(DistributeConfig(), "the devices")
    checkpoint: CheckpointConfig = _setting(CheckpointConfig(), "the saved state")
    monitor: MonitorConfig = _setting(MonitorConfig(), "what people see of it")

    @model_validator(mode="after")
    def _batch_divides(self) -> Config:
        batch, parts = self.data.global_batch_size, self.optim.accumulate_steps
        if batch % parts:
            fitting = [n for n in range(1, batch + 1) if batch % n == 0]
            nearest = sorted(fitting, key=lambda n: abs(n - parts))[:3]
            raise ValueError(
                f"optim.accumulate_steps must divide data.global_batch_size={batch}, "
                f"for example {', '.join(map(str, sorted(nearest)))}. Received: {parts}"
            )
        return self

    @model_validator(mode="after")
    def _random_crops_are_resized(self) -> Config:
        if self.data.resize == "none" and self.data.augment.resized_crop_min_area is not None:
            raise ValueError(
                "data.augment.resized_crop_min_area cuts boxes of any size out of the images, and "
                "data.resize=none leaves them so: set data.resize=squash or crop, or the former to "
                "null"
            )
        return self

    @property
    def run_dir(self) -> Path:
        """The run folder; `load_config` has put the default in place."""
        if self.run.dir is None:
            raise SettingsError("run.dir is not set: name a folder with run.dir=FOLDER")
        return Path(self.run.dir)


class Setting(NamedTuple):
    """One line of `vit train --help`."""

    key: str
    type: str
    default: Any
    doc: str
    free: bool


def all_settings(stage: type[BaseModel] = Config, prefix: str = "") -> Iterator[Setting]:
    """Every setting with type, default and meaning, in the order of the classes."""
    for name, field in stage.model_fields.items():
        kind = field.annotation
        if is_section(kind):
            yield from all_settings(kind, f"{prefix}{name}.")
        else:
            extra = field.json_schema_extra
            free = isinstance(extra, dict) and bool(extra["free"])
            default = None if field.default is PydanticUndefined else field.default
            yield Setting(prefix + name, _type_name(kind), default, field.description or "", free)


def type_of(key: str) -> Any:
    """The type of a setting or section by its dotted key; None if there is none of that name."""
    kind: Any = Config
    for part in key.split("."):
        field = kind.model_fields.get(part) if is_section(kind) else None
        if field is None:
            return None
        kind = field.annotation
    return kind


def value_of(config: Config, key: str) -> Any:
    """The value of a dotted key such as `data.image_size`."""
    value: Any = config
    for part in key.split("."):
        value = getattr(value, part)
    return value


def training_differences(old: Config, new: Config) -> list[str]:
    """Settings that change the training and differ, as lines `key: old -> new`."""
    return [
        f"{s.key}: {value_of(old, s.key)!r} -> {value_of(new, s.key)!r}"
        for s in all_settings()
        if not s.free and value_of(old, s.key) != value_of(new, s.key)
    ]


def _type_name(kind: Any) -> str:
    origin = get_origin(kind)
    if origin is Literal:
        return "|".join(map(str, get_args(kind)))
    if origin in (Union, UnionType):
        return "|".join("null" if k is type(None) else _type_name(k) for k in get_args(kind))
    if origin is Annotated:
        return _type_name(get_args(kind)[0])
    if origin is tuple:
        return f"list of {_type_name(get_args(kind)[0])}"
    return getattr(kind, "__name__", str(kind))
