"""Suggests the setting that a user most likely meant."""

from __future__ import annotations

import difflib

from pipeline.config.lookup import all_settings

# Names from other programs. A name that equals the last part of exactly one setting is found
# without this table.
OTHER_NAMES = {
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
_BY_OTHER_NAME = {name: key for key, names in OTHER_NAMES.items() for name in names.split()}


def suggest_setting(key: str, cutoff: float = 0.5) -> str | None:
    """The setting or section that a user who wrote `key` most likely meant.

    Args:
      key: What the user wrote, with or without its sections.
      cutoff: Minimum similarity, from 0 to 1, of names that are not in `OTHER_NAMES`.
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
