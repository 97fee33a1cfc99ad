"""Rendered YAML means the same to every parser, whichever version of YAML it reads."""

import random
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from k8s.yaml_text import to_yaml
from tests.k8s.asked import rendered

ROOT = Path(__file__).parents[2]
# Each is a text that some parser takes for a number, a boolean, null, a date or a key of its own.
TEXTS = (
    *("1e3", "1E3", "99e12", "12345e67", "0o7", "012", "0x1F", "0b1", "1_000", "+1", "-1", "1."),
    *(".5", "1:1.0", "1.1.1.1", "16Gi", "500m", "a" * 200),
    *("1.5e+3", "12:30", "190:20:30", "12:30.5", "2001-01-01", "2001-99-99", "2001-1-1 2:3:4"),
    *("on", "Off", "yes", "NO", "y", "N", "true", "False", "TRUE", "null", "Null", "~", ""),
    *(".inf", "-.Inf", ".NaN", "=", "<<", "-", "--", "---", "...", "?", ":", "a: b", "a #b", "#a"),
    *("&a", "*a", "!a", "!!int 1", "%a", "@a", "`a", "[a", "{a", "a,b", "'a", '"a', "\\a", "$(A)"),
    *(" a", "a ", "a\n", "\na", " a\nb\n\n", "a\tb", "\ta", "a\x85b\n", "a\u2028b\n", "é"),
    *("\ufeffa", "\x01", "\x7f", "\U0001f600", "a\r\nb"),
)  # fmt: skip
ALPHABET = "01.eExob_+-:~=<>yYnNtfF \t\n#'\"[]{},&*!|>%@`?/\\aZ\x85\u2028é\U0001f600\x01\xa0"

# What is no text without quotes, by YAML 1.1's type repository and YAML 1.2's core schema.
NO_TEXT = re.compile(
    r"""y|Y|yes|Yes|YES|n|N|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF
    |~|null|Null|NULL||<<|=
    |[-+]?(0b[01_]+|0o?[0-7_]+|0|[1-9][0-9_]*|0x[0-9a-fA-F_]+)
    |[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?
    |[-+]?(\.[0-9_]+|[0-9][0-9_]*(\.[0-9_]*)?)([eE][-+]?[0-9]+)?
    |[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)
    |[0-9]{4}-[0-9][0-9]?-[0-9][0-9]?([Tt\ \t].*)?""",
    re.VERBOSE,
)


def misread(text):
    """The texts without quotes that another parser may take for something else."""
    documents = yaml.compose_all(text, yaml.SafeLoader)
    return {
        node.value
        for document in documents
        for node in scalars(document)
        if node.style is None
        and node.tag == "tag:yaml.org,2002:str"
        and NO_TEXT.fullmatch(node.value)
    }


def scalars(node):
    if isinstance(node, yaml.ScalarNode):
        yield node
    elif isinstance(node, yaml.SequenceNode):
        for child in node.value:
            yield from scalars(child)
    else:
        for key, value in node.value:
            yield from scalars(key)
            yield from scalars(value)


def manifest_of(texts):
    texts = list(texts)
    data = {f"k{index}": text for index, text in enumerate(texts)}
    keys = {text: text for text in texts if len(text) < 120}  # longer ones get a line with `?`
    return {"data": data, "list": texts, "keys": keys, "deep": [{"a": [text]} for text in texts]}


def test_every_text_is_text_to_every_parser():
    draw = random.Random(0)
    drawn = ["".join(draw.choices(ALPHABET, k=draw.randrange(9))) for _ in range(2000)]
    manifest = manifest_of([*TEXTS, *drawn])
    text = to_yaml([manifest])
    assert yaml.safe_load(text) == manifest
    assert misread(text) == set()


def test_the_check_can_fail():
    text = yaml.safe_dump(manifest_of(TEXTS), sort_keys=False)
    assert misread(text) >= {"1e3", "99e12", "0o7"}


@pytest.mark.parametrize("options", ["--tensorboard", "--nodes 2 --backend mpijob"])
def test_a_jobs_manifests_mean_the_same_to_every_parser(options):
    manifests = rendered(f"{options} --name on --node-selector gpu=1e3 --node-selector off=0o7")
    assert misread(to_yaml(manifests)) == set()


@pytest.mark.parametrize("base", sorted(ROOT.glob("k8s/*/*.yaml")), ids=lambda p: p.parent.name)
def test_the_bases_mean_the_same_to_every_parser(base):
    assert misread(base.read_text()) == set()


@pytest.mark.processes
@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl kustomize is not here")
def test_every_text_is_text_to_the_parser_of_kubectl(tmp_path):
    # It reads all of them, and cannot write control characters.
    texts = [text for text in TEXTS if text.isascii() and not set(text) & {"\x01", "\x7f"}]
    data = {f"k{index:03}": text for index, text in enumerate(texts)}
    head = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "texts"}}
    (tmp_path / "texts.yaml").write_text(to_yaml([head | {"data": data}]))
    (tmp_path / "kustomization.yaml").write_text("resources: [texts.yaml]\n")
    done = subprocess.run(
        ["kubectl", "kustomize", tmp_path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    # A number would come back in another form: 1e3 as 1000, 012 as 10.
    assert yaml.load(done.stdout, yaml.BaseLoader)["data"] == data  # noqa: S506
