"""Names of classes and files that are markup, mathematics or commands come out as their text."""

from dataclasses import replace

import numpy as np
import pytest
from tensorboard.plugin_util import markdown_to_safe_html

from pipeline.monitor.tensorboard import as_markdown
from pipeline.monitor.training_figures import draw_batch
from pipeline.report.comparison_page import comparison_page
from pipeline.report.prediction_gallery import Shown, gallery_entry, gallery_page
from pipeline.report.run_page import report_page
from pipeline.report.tensorboard_images import write_board
from tests.report.invented import invented_run, with_pictures
from tests.report.parsed import Node, parse
from tests.report.test_tensorboard_images import read

HOSTILE = [
    "\x1b]0;pwned\x07.png",
    "<img src=x onerror=alert(1)>",
    "=cmd|' /C calc'!A0",
    r"$\frac$",
    "</title><script>alert(1)</script>",
    '" onload="alert(1)',
    "[click](javascript:alert(1)) <javascript:alert(1)>",
    "**bold** `code` # head\n# head",
    "&lt;b&gt; &#60;b&#62;",
]


def shape(node):
    """Tags and names of attributes, without text and values."""
    inner = [shape(child) for child in node.children if isinstance(child, Node)]
    return node.tag, sorted(node.attributes), inner


def pages(names):
    run = with_pictures(invented_run(names, name=names[1]), 8)
    pixels = np.zeros((8, 8, 3), np.uint8)
    shown = [Shown(n, pixels, [(n, 0.5)]) for n in names]
    shown.append(Shown(names[1], None, [], names[1]))
    return {
        "report": report_page(run),
        "comparison": comparison_page([run, replace(run, name=names[4])]),
        "gallery": gallery_page(names[1], names[1], [gallery_entry(one) for one in shown]),
    }


@pytest.mark.parametrize("kind", ["report", "comparison", "gallery"])
def test_a_page_has_the_elements_that_it_has_with_harmless_names(kind):
    hostile = pages(HOSTILE)[kind]
    harmless = pages([f"class {i}" for i in range(len(HOSTILE))])[kind]
    assert shape(parse(hostile)) == shape(parse(harmless))
    assert HOSTILE[1] in parse(hostile).text


def test_every_page_forbids_scripts_and_what_is_elsewhere():
    for page in pages(HOSTILE).values():
        root = parse(page)
        policy = [m.attributes["content"] for m in root.find("meta")
                  if m.attributes.get("http-equiv") == "Content-Security-Policy"]  # fmt: skip
        assert len(policy) == 1
        assert policy[0].startswith("default-src 'none'; style-src 'unsafe-inline'; img-src data:")
        # It counts from where it stands: nothing comes before it that could load.
        assert page.index("Content-Security-Policy") < page.index("<title")
        assert not root.find("script")


@pytest.mark.parametrize("name", HOSTILE)
def test_tensorboard_shows_a_name_as_text(name):
    plain = markdown_to_safe_html("1. some name is x")
    shown = markdown_to_safe_html(f"1. {as_markdown(name)} is x")
    assert shape(parse(shown)) == shape(parse(plain))
    expected = name.replace("\x1b", r"\x1b").replace("\x07", r"\x07").replace("\n", r"\n")
    assert f"{expected} is x" in parse(shown).text


def test_the_mistakes_in_tensorboard_have_no_markup_of_their_names(tmp_path):
    run = with_pictures(invented_run(HOSTILE), 8)
    write_board(tmp_path, run)
    _, value, description = read(tmp_path)["most certain mistakes"]
    root = parse(markdown_to_safe_html(description))
    assert not any(root.find(tag) for tag in ("a", "img", "script", "strong", "code", "h1"))
    assert len(root.find("li")) == len(value.tolist()) - 2


def test_a_picture_draws_mathematics_and_commands_as_text():
    images = np.zeros((len(HOSTILE), 8, 8, 3), np.uint8)
    assert draw_batch(images, np.eye(len(HOSTILE), dtype=np.float32), HOSTILE)[:4] == b"\x89PNG"
