"""Settings of a run.

settings.py  one class per section of a recipe; every setting with its type, default and meaning
values.py    reads one value by the type of its setting
document.py  a YAML text as nested text, with the line of each key
recipe.py    reads settings from a recipe, its base and the command line
explain.py   what is wrong with a setting, where it stands, and which one was meant

Importing this package must stay cheap: a wrong setting is reported before TensorFlow is imported.
"""

from pipeline.config.explain import suggest_setting
from pipeline.config.recipe import dump_config, load_config, parse_config
from pipeline.config.settings import (
    VARIANT_PATTERN,
    AugmentConfig,
    CheckpointConfig,
    Config,
    DataConfig,
    DistributeConfig,
    ModelConfig,
    MonitorConfig,
    OptimConfig,
    RunConfig,
    Setting,
    TrainConfig,
    all_settings,
    training_differences,
    value_of,
)
from pipeline.config.values import URL

__all__ = [
    "URL",
    "VARIANT_PATTERN",
    "AugmentConfig",
    "CheckpointConfig",
    "Config",
    "DataConfig",
    "DistributeConfig",
    "ModelConfig",
    "MonitorConfig",
    "OptimConfig",
    "RunConfig",
    "Setting",
    "TrainConfig",
    "all_settings",
    "dump_config",
    "load_config",
    "parse_config",
    "suggest_setting",
    "training_differences",
    "value_of",
]
