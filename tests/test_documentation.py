"""Commands in the documentation name verbs and recipes that exist."""

import re
from pathlib import Path

import pytest

from jobs.cli import VERBS
from pipeline.recipes import RECIPES

ROOT = Path(__file__).parent.parent
PAGES = [
    ROOT / "README.md",
    ROOT / "Dockerfile",
    *sorted(path for path in (ROOT / "k8s").rglob("*") if path.suffix in {".md", ".yaml"}),
    ROOT / "k8s/slurm.sbatch",
    *sorted(RECIPES.glob("*.yaml")),
]
# As in `vit train digits`, but not in "of vit training" or "vit-pipeline"; what is written in
# capitals, or is a path or an option, stands for a recipe of the reader's.
RECIPE = re.compile(r"\bvit (?:train|plan|doctor|submit) ([a-z][a-z0-9_]*)(?![\w./=<-])")
SBATCH = re.compile(r"slurm\.sbatch ([a-z][a-z0-9_]*)(?![\w./=<-])")
VERB = re.compile(r"(?:^|[`$] ?|-- |&& )vit ([a-z][a-z-]*)", re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_verbs_and_recipes_that_a_page_names_exist(page):
    text = page.read_text()
    recipes = {path.stem for path in RECIPES.glob("*.yaml")}
    named = set(RECIPE.findall(text)) | set(SBATCH.findall(text))
    assert named <= recipes
    assert set(VERB.findall(text)) <= set(VERBS)


def test_the_pages_name_recipes_at_all():
    pages = [ROOT / "README.md", ROOT / "k8s/README.md", ROOT / "k8s/slurm.sbatch"]
    for page in pages:
        assert set(RECIPE.findall(page.read_text())) | set(SBATCH.findall(page.read_text()))


@pytest.mark.parametrize(
    "package",
    [
        "k8s",
        *(
            f"pipeline/{name}"
            for name in (
                "config",
                "data",
                "runtimes",
                "launch",
                "runs",
                "runs/checkpoints",
                "training",
                "report",
                "doctor",
            )
        ),
    ],
)
def test_a_package_lists_its_modules_as_they_are(package):
    folder = ROOT / package
    text = (folder / "__init__.py").read_text()
    named = set(re.findall(r"\b(\w+\.py)\b", text))
    there = {path.name for path in folder.rglob("*.py")}
    assert named <= there
    assert {path.name for path in folder.glob("*.py")} - {"__init__.py"} <= named
