"""Explains wrong settings: where each one stands, what is wrong with it, and what to write."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from pipeline.config.settings import all_settings, type_of
from pipeline.config.values import is_section
from pipeline.printable import received, shortened

COMMAND_LINE = "on the command line"
_MOST_LINES = 20

# What other programs call settings. Names that equal the last part of one setting are not needed.
_OTHER_NAMES = {
    "optim.base_lr": "lr learning_rate base_learning_rate peak_lr max_lr blr",
    "optim.weight_decay": "wd",
    "optim.warmup_epochs": "warmup",
    "optim.schedule": "scheduler sched lr_schedule",
    "optim.clip_norm": "clip_grad grad_clip clip_grad_norm max_grad_norm gradient_clip_val",
    "optim.accumulate_steps": "accum_steps grad_accum gradient_accumulation_steps accum_iter",
    "optim.ema_momentum": "ema ema_decay model_ema",
    "data.global_batch_size": "batch_size batch bs",
    "data.eval_batch_size": "val_batch_size validation_batch_size",
    "data.path": "data_path data_dir dataset dataset_dir image_dir images",
    "data.image_size": "img_size input_size resolution size",
    "data.threads": "workers num_workers",
    "data.mixup_alpha": "mixup",
    "data.cutmix_alpha": "cutmix",
    "data.label_smoothing": "smoothing",
    "data.validation_fraction": "val_split validation_split_fraction",
    "data.augment.erasing": "reprob random_erasing",
    "data.augment.flip": "hflip horizontal_flip",
    "model.variant": "arch architecture model_name",
    "model.pretrained": "weights init_from finetune",
    "model.stochastic_depth": "drop_path drop_path_rate",
    "train.epochs": "num_epochs n_epochs max_epochs",
    "train.max_steps": "steps num_steps total_steps",
    "train.precision": "dtype mixed_precision amp bf16 fp16",
    "train.early_stopping": "patience",
    "train.log_every_steps": "log_every log_interval log_every_n_steps",
    "run.dir": "output output_dir out out_dir outdir run_dir save_dir log_dir logdir workdir",
    "seed": "random_seed",
    "distribute.runtime": "strategy backend",
    "checkpoint.every_steps": "save_steps save_every",
}
_BY_OTHER_NAME = {name: key for key, names in _OTHER_NAMES.items() for name in names.split()}


def suggest_setting(key: str, cutoff: float = 0.5) -> str | None:
    """The setting or section that somebody who wrote `key` most likely means.

    Args:
      key: What was written, with its sections or without.
      cutoff: How alike, from 0 to 1, a name must be that is not known from elsewhere.
    """
    known = [setting.key for setting in all_settings()]
    sections = sorted({key.rpartition(".")[0] for key in known} - {""})
    key = key.lower().replace("-", "_")
    if close := difflib.get_close_matches(key, known, n=1, cutoff=0.85):
        return close[0]
    name = key.rpartition(".")[2]
    same_name = [setting for setting in known if setting.rpartition(".")[2] == name]
    if len(same_name) == 1:
        return same_name[0]
    if name in _BY_OTHER_NAME:
        return _BY_OTHER_NAME[name]
    close = difflib.get_close_matches(key, known + sections, n=1, cutoff=cutoff)
    return close[0] if close else None


def explain_all(
    errors: Sequence[Mapping[str, Any]], origin: str, origins: Mapping[str, str]
) -> list[str]:
    """One line for each of pydantic's errors, which begins with where the setting stands.

    Args:
      errors: Of a ValidationError.
      origin: Where settings are from that `origins` does not have.
      origins: File and line, or `COMMAND_LINE`, by dotted key.
    """
    lines = []
    for error in errors[:_MOST_LINES]:
        place = _place(error, origins) or origin
        if error["type"] == "extra_forbidden":
            # As it was typed, where pydantic names the section alone.
            typed = [key for key in origins if key.startswith(f"{_key(error)}.")]
            key = typed[0] if typed and place == COMMAND_LINE else _key(error)
            text = _explain_unknown(key, error, in_file=place != COMMAND_LINE)
        else:
            text = _explain(error)
        lines.append(f"{place}: {text}")
    if len(errors) > _MOST_LINES:
        lines.append(f"{origin}: and {len(errors) - _MOST_LINES:,} more")
    return lines


def _place(error: Mapping[str, Any], origins: Mapping[str, str]) -> str | None:
    if _names_its_settings(error):
        named = [(key, place) for key, place in origins.items() if key in error["msg"]]
        # A value of the command line is the newest; a longer key says more than its section.
        named.sort(key=lambda pair: (pair[1] == COMMAND_LINE, len(pair[0])))
        if named:
            return named[-1][1]
    parts = [str(part) for part in error["loc"]]
    keys = [".".join(parts[:count]) for count in range(len(parts), 0, -1)]
    below = (key for key in origins if key.startswith(f"{keys[0]}.")) if keys else ()
    return next((origins[key] for key in (*keys, *below) if key in origins), None)


def _names_its_settings(error: Mapping[str, Any]) -> bool:
    """Whether the check of a whole section raised it, whose message names the settings."""
    of_section = not error["loc"] or is_section(type_of(_key(error)))
    return of_section and isinstance(error["input"], (dict, BaseModel))


def _key(error: Mapping[str, Any]) -> str:
    return ".".join(str(part) for part in error["loc"])


def _explain(error: Mapping[str, Any]) -> str:
    key = _key(error)
    message = str(error["msg"]).removeprefix("Value error, ").replace("Input should be", "must be")
    if _names_its_settings(error):
        return message
    if is_section(kind := type_of(key)):
        message += f", for example {key}.{next(iter(kind.model_fields))}"
    wrong = "null" if error["input"] is None else received(error["input"])
    return f"{shortened(key)}: {message}. Received: {wrong}"


def _explain_unknown(key: str, error: Mapping[str, Any], *, in_file: bool) -> str:
    if key == "base":
        return "base: no setting: a recipe file names in `base:` the file that it inherits from"
    dotted = in_file and any("." in str(part) for part in error["loc"])
    if dotted and type_of(key) is not None:
        *sections, name = key.split(".")
        inner = "".join(f"{{{section}: " for section in sections[1:])
        nested = f"{sections[0]}: {inner}{{{name}: {shortened(str(error['input']))}}}" + "}" * len(
            sections[1:]
        )
        return f"{key}: in a file a setting stands inside its section: write `{nested}`"
    suggestion = suggest_setting(key)
    if suggestion is None:
        return f"{shortened(key)}: no such setting; `vit train --help` lists all settings"
    return f"{shortened(key)}: no such setting; did you mean {suggestion}?"
