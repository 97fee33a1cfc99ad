"""What the documentation says exists: links, commands, recipes, settings, files, targets."""

import ast
import importlib.util
import json
import re
import shlex
from pathlib import Path

import pytest

import jobs.cli
import pipeline
from docs.generate_settings import generate
from jobs.cli import VERBS
from pipeline.config import all_settings, load_config
from pipeline.recipes import RECIPES

ROOT = Path(__file__).parent.parent
TEXTS = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "k8s").rglob("*.md")),
]
COMMENTS = [
    ROOT / "Dockerfile",
    *sorted((ROOT / "k8s").rglob("*.yaml")),
    ROOT / "k8s/slurm.sbatch",
    *sorted(RECIPES.glob("*.yaml")),
]
HISTORY = ROOT / "CHANGELOG.md"  # also speaks of what is gone
NOTEBOOK = ROOT / "docs/tutorial.ipynb"
# As in `vit train digits`, but not in "of vit training" or "vit-pipeline"; what is written in
# capitals, or is a path or an option, stands for a recipe of the reader's.
RECIPE = re.compile(r"\bvit (?:train|plan|doctor|submit) ([a-z][a-z0-9_]*)(?![\w./=<-])")
SBATCH = re.compile(r"slurm\.sbatch ([a-z][a-z0-9_]*)(?![\w./=<-])")
VERB = re.compile(r"(?:^|[`$] ?|-- |&& )vit ([a-z][a-z-]*)", re.MULTILINE)
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
FILES_AND_METHODS = {"model.fit", "model.safetensors", "data.md"}
KEYS = {setting.key for setting in all_settings()}


def name(page):
    return str(page.relative_to(ROOT))


def prose(text):
    """The text without what stands in fences."""
    return FENCE.sub("", text)


def anchors(page):
    """The anchors of a page's headings, as GitHub and MkDocs make them."""
    headings = re.findall(r"^#+ (.+)$", prose(page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def blocks(page):
    """What stands in fences for a shell, and the shell cells of the notebook."""
    if page == NOTEBOOK:
        cells = json.loads(page.read_text())["cells"]
        sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
        return [source for source in sources if source.startswith("%%bash")]
    return [body for kind, body in FENCE.findall(page.read_text()) if kind in ("", "sh", "bash")]


def commands(page):
    """The words of each `vit` command, alone or started by another program.

    In a fence whose commands have a prompt, all other lines are output.
    """
    for block in blocks(page):
        lines = block.replace("\\\n", " ").splitlines()
        if any(line.startswith("$ ") for line in lines):
            lines = [line[2:] for line in lines if line.startswith("$ ")]
        for part in (part for line in lines for part in line.split("&& ")):
            if not re.match(r"vit (?!train: )|horovodrun .* vit |\w+= ?vit ", part):
                continue
            # A comment, or a pipe, ends what `vit` is given.
            words = shlex.split(re.sub(r"\s[|<>] .*", "", part), comments=True)
            while "vit" in words:
                words = words[words.index("vit") + 1 :]
                own = words[: words.index("vit")] if "vit" in words else words
                yield [word for word in own if word != "..."]


@pytest.mark.parametrize("page", [*TEXTS, *COMMENTS], ids=name)
def test_verbs_and_recipes_that_a_page_names_exist(page):
    text = page.read_text()
    recipes = {path.stem for path in RECIPES.glob("*.yaml")}
    named = set(RECIPE.findall(text)) | set(SBATCH.findall(text))
    if page != HISTORY:
        assert named <= recipes
        assert set(VERB.findall(text)) <= set(VERBS)


@pytest.mark.parametrize("page", TEXTS, ids=name)
def test_links_lead_somewhere(page):
    for link in LINK.findall(prose(page.read_text())):
        if re.match(r"https?://|mailto:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        # The site has the notebook as a page too; in the repository it is the notebook itself.
        assert target.exists(), link
        assert target.is_relative_to(ROOT), link
        if anchor:
            assert anchor in anchors(target), link


@pytest.mark.parametrize("page", TEXTS, ids=name)
def test_functions_and_classes_are_linked_where_they_are_defined(page):
    for symbol, path in re.findall(r"\[`(\w+)`\]\(([^)]+\.py)\)", page.read_text()):
        text = (page.parent / path).read_text()
        assert re.search(rf"^ *(?:def|class) {symbol}\b", text, re.MULTILINE), (symbol, path)


@pytest.mark.parametrize("page", [*TEXTS, NOTEBOOK], ids=name)
def test_commands_parse(page, monkeypatch):
    """Parses each command in this process as `vit` does, and reads recipe and settings."""
    monkeypatch.setattr(jobs.cli, "_log_to_stderr", lambda *_: None)
    parsed = []
    monkeypatch.setattr(
        jobs.cli, "_run", lambda verb, module, arguments, place: parsed.append(arguments) or 0
    )
    for words in commands(page):
        try:
            assert jobs.cli.main(words) == 0
        except SystemExit as refused:
            pytest.fail(f"vit {shlex.join(words)}: {refused}")
        if words[0] in ("train", "doctor", "plan"):
            check_settings(parsed[-1].recipe, parsed[-1].settings)


def check_settings(recipe, settings):
    """Names in capitals stand for something of the reader's."""
    for setting in settings:
        assert setting.partition("=")[0] in KEYS, setting
    settings = [one for one in settings if not one.partition("=")[2].isupper()]
    shipped = RECIPES / f"{recipe}.yaml"
    load_config(shipped if shipped.exists() else RECIPES / "digits.yaml", settings)


def test_the_pages_have_commands_at_all():
    for page in (ROOT / "README.md", ROOT / "docs/workers.md", NOTEBOOK):
        assert list(commands(page)), name(page)


@pytest.mark.parametrize("page", TEXTS, ids=name)
def test_settings_that_a_page_names_exist(page):
    """A name in backticks whose first part is a section of a recipe is a setting of it."""
    sections = {key.partition(".")[0] for key in KEYS if "." in key}
    for code in re.findall(r"`([^`\n]+)`", prose(page.read_text())):
        key = re.match(r"([a-z_]+(?:\.[a-z0-9_]+)+)(?=$|=)", code)
        if not key or key[1] in FILES_AND_METHODS or page == HISTORY:
            continue
        if key[1].partition(".")[0] in sections:
            prefixes = {known.rpartition(".")[0] for known in KEYS}
            assert key[1] in KEYS | prefixes, code


@pytest.mark.parametrize("page", TEXTS, ids=name)
def test_files_modules_and_targets_that_a_page_names_exist(page):
    text = page.read_text()
    if page == HISTORY:
        return
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"(?:`|^|&& )make ([a-z-]+)", text, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"make {target}"
    folders = "pipeline|jobs|k8s|benchmarks|tests|tools|docs"
    for path in re.findall(rf"`((?:{folders})/[\w./-]+)`", text):
        assert (ROOT / path).exists() or "NAME" in path, path
    for file in re.findall(r"`(test_\w+\.py)`", text):
        assert list((ROOT / "tests").rglob(file)), file
    for module in re.findall(rf"python -m ((?:{folders})[\w.]*)", text):
        assert importlib.util.find_spec(module), module


@pytest.mark.parametrize("page", TEXTS, ids=name)
def test_python_programs_parse_and_use_what_the_package_has(page):
    for program in (body for kind, body in FENCE.findall(page.read_text()) if kind == "python"):
        for node in ast.walk(ast.parse(program)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert node.value.id != "pipeline" or node.attr in pipeline.__all__, node.attr


def test_messages_in_troubleshooting_are_those_of_the_code():
    """Each part of a quoted message, between numbers and dots, is in a text of the code."""
    page = (ROOT / "docs/troubleshooting.md").read_text()
    folders = ("pipeline", "jobs", "k8s")
    nodes = [
        node
        for folder in folders
        for file in sorted((ROOT / folder).rglob("*.py"))
        for node in ast.walk(ast.parse(file.read_text()))
    ]
    # What an f-string fills in is left out: "of {n} images" has the texts "of " and " images".
    texts = {node.value for node in nodes if isinstance(node, ast.Constant)}
    corpus = "\0".join(str(text) for text in texts)
    tables = re.findall(r"^\| message [^\n]*\n\|[-|]+\n((?:\|.*\n)+)", page, re.MULTILINE)
    rows = [row.split(" | ")[0] for table in tables for row in table.splitlines()]
    messages = [message for row in rows for message in re.findall(r"`([^`]+)`", row)]
    assert len(messages) > 20
    for message in messages:
        for part in re.split(r"\.\.\.|\d+", message):
            assert part.strip() in corpus, message


def test_every_verb_setting_and_recipe_is_documented():
    text = "\n".join(page.read_text() for page in TEXTS if page != HISTORY)
    assert [verb for verb in VERBS if f"`vit {verb}" not in text] == []
    assert [key for key in sorted(KEYS) if f"`{key}`" not in text] == []
    assert [path.stem for path in RECIPES.glob("*.yaml") if f"`{path.stem}`" not in text] == []


def test_the_tables_of_settings_are_those_of_the_code():
    page = (ROOT / "docs/settings.md").read_text()
    assert generate(page) == page, "run `python docs/generate_settings.py`"


def test_every_page_is_in_the_site():
    """Without MkDocs, which only `make docs` installs."""
    nav = set(re.findall(r"([\w-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE))
    assert nav == {page.name for page in (ROOT / "docs").glob("*.md")} | {"tutorial.md"}


@pytest.mark.parametrize(
    "package",
    [
        "k8s",
        *(
            f"pipeline/{name}"
            for name in (
                "api",
                "config",
                "data",
                "runtimes",
                "launch",
                "runs",
                "runs/checkpoints",
                "training",
                "report",
                "doctor",
                "model",
                "model/weights",
                "optim",
                "monitor",
                "plan",
                "export",
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
