"""The settings of a run.

One file per section of a recipe, each with one frozen pydantic model:
run.py, data.py, augment.py (data.augment), model.py, optim.py, train.py, distribute.py,
checkpoint.py and monitor.py.

config.py          all sections together
consistency.py     checks that involve several sections
section.py         the base class of sections, and how a setting is declared
lookup.py          lists all settings; finds one by its dotted key
recipe.py          loads, validates and saves settings
recipe_file.py     reads a recipe file and its bases
overrides.py       reads `section.key=value` from the command line
yaml_document.py   reads YAML as nested text, with the line number of each key
value_parser.py    parses a value according to the type of its setting
error_messages.py  says where a wrong setting is and how to fix it
suggestions.py     suggests the setting that the user meant

Importing this package does not import TensorFlow, so wrong settings are reported immediately.
"""

from pipeline.config.augment import AugmentConfig
from pipeline.config.checkpoint import CheckpointConfig
from pipeline.config.config import Config
from pipeline.config.data import DataConfig
from pipeline.config.distribute import DistributeConfig
from pipeline.config.lookup import Setting, all_settings, training_differences, value_of
from pipeline.config.model import VARIANT_PATTERN, ModelConfig
from pipeline.config.monitor import MonitorConfig
from pipeline.config.optim import OptimConfig
from pipeline.config.recipe import dump_config, load_config, parse_config
from pipeline.config.run import RunConfig
from pipeline.config.suggestions import suggest_setting
from pipeline.config.train import TrainConfig
from pipeline.config.value_parser import URL

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
