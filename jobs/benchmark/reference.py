"""The independent answers that benchmarks compare with: they are tests' and not in the wheel."""

from __future__ import annotations

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

from pipeline.errors import SettingsError

ROOT = Path(__file__).parents[2]


def load_reference(name: str) -> ModuleType:
    """The module `tests/reference/NAME.py` of the repository that this file is in.

    Raises:
      SettingsError: This package was installed without its repository.
    """
    path = find_reference(name)
    spec = spec_from_file_location(f"reference_{name}", path)
    if spec is None or spec.loader is None:
        raise SettingsError(f"{path} cannot be imported")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def find_reference(name: str) -> Path:
    """Its file.

    Raises:
      SettingsError: This package was installed without its repository.
    """
    path = ROOT / "tests" / "reference" / f"{name}.py"
    if not path.is_file():
        raise SettingsError(
            f"{path} is not there: run this benchmark from a checkout of the repository"
        )
    return path
