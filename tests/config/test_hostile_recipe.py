"""Recipes and run folders that somebody made to hang, exhaust or mislead their reader."""

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.config import all_settings, load_config
from pipeline.config.value_parser import _NUMBER
from pipeline.errors import SettingsError
from pipeline.printable import printable

LIMIT_S = 5.0  # of processor time of all threads; without limits these recipes take minutes


class Expired(BaseException):
    """Passes through every handler of errors."""


@contextmanager
def within(limit_s):
    """Ends what takes more time of a core, or waits, also inside one long call of Python's."""

    def expire(number, frame):
        raise Expired(f"it takes more than {limit_s} s")

    before = [signal.signal(number, expire) for number in (signal.SIGPROF, signal.SIGALRM)]
    signal.setitimer(signal.ITIMER_PROF, limit_s)
    signal.setitimer(signal.ITIMER_REAL, 15 * limit_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGPROF, before[0])
        signal.signal(signal.SIGALRM, before[1])


def error_of(path, overrides=()):
    """The message with which a recipe is refused."""
    with within(LIMIT_S), pytest.raises(SettingsError) as caught:
        load_config(path, overrides)
    message = str(caught.value)
    assert len(message) < 1000
    assert is_shown_as_it_is(message)
    return message


def is_shown_as_it_is(message):
    return message == "\n".join(printable(line) for line in message.split("\n"))


def load_or_explain(path, overrides=()):
    with within(LIMIT_S):
        try:
            load_config(path, overrides)
            message = ""
        except SettingsError as error:
            message = str(error)
    assert is_shown_as_it_is(message)


def laughs(levels):
    """Each level has three aliases of the one below: 3 ** levels values in 40 bytes a level."""
    level = "a{0}: &a{0} {{x: *a{1}, y: *a{1}, z: *a{1}}}"
    return "\n".join(["a0: &a0 {x: 1}", *(level.format(i, i - 1) for i in range(1, levels))])


def merges(levels):
    level = "a{0}: &a{0} {{<<: [*a{1}, *a{1}, *a{1}]}}"
    return "\n".join(["a0: &a0 {x: 1}", *(level.format(i, i - 1) for i in range(1, levels))])


TOO_MUCH = {
    "aliases": laughs(30),
    "merge keys": merges(30),
    "a chain of aliases": "a0: &a0 {x: 1}\n" + "\n".join(
        f"a{i}: &a{i} {{x: *a{i - 1}}}" for i in range(1, 100)),
    "lists in one line": "a: " + "[" * 100_000,
    "mappings in one line": "{a: " * 50_000,
    "mappings in lines": "".join(" " * i + "a:\n" for i in range(1200)),
    "lists of lists": "- " * 100_000,
    "long list": "- a\n" * 200_000,
    "anchors": "\n".join(f"- &a{i} x" for i in range(50_000)),
    "explicit keys": "? " * 300_000,
}  # fmt: skip


@pytest.mark.parametrize("text", TOO_MUCH.values(), ids=TOO_MUCH)
def test_values_and_levels_are_limited_with_aliases_as_what_they_stand_for(recipe, text):
    message = error_of(recipe(text))
    assert "recipe.yaml, line " in message
    assert "at most 10,000 values, nested at most 50 levels deep" in message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("seed: " + "1" * 900_000, "line 1: seed: must be a whole number of at most 400 char"),
        ("seed: " + "1_" * 50_000 + "x", "line 1: seed: must be a whole number of at most 400 "),
        ("seed: 0x" + "f" * 5000, "line 1: seed: must be a whole number of at most 400 char"),
        ("seed: 1e" + "9" * 100_000, "line 1: seed: must be a whole number of at most 400 char"),
        ("seed: 1e300", "line 1: seed: must be at most 1e+12. Received: '1e300'"),
        ("seed: !!int " + "1" * 5000, "is not of type !!int"),
        ("seed: !!int " + "1:" * 100_000 + "1", "is not of type !!int"),
        ("seed: !!float " + "1:" * 3000 + "1.0", "is not of type !!float"),
        ("seed: 2001-99-99", "line 1: seed: must be a whole number. Received: '2001-99-99'"),
        ("seed: !!timestamp 2001-99-99", "line 1: the tag !!timestamp is not supported"),
        ("train: {max_time_s: 1e11}", "must be less than or equal to 1000000000"),
        ("seed: !" + "x" * 100_000 + " 1", "... (100,001 characters) is not supported"),
        ("? " + "a" * 900_000 + "\n: 1", "the name of a setting may have at most 100 characters"),
        ("seed: " + "x" * 900_000, "... (900,000 characters)"),
        ("data: {path: '" + "a/" * 3000 + "'}", "must have at most 4096 characters"),
        ('data: {path: "a\\0b"}', "must be text without NUL"),
        ('data: {path: "\\ud800"}', "must be text without NUL characters and lone surrogate"),
        ('base: "a\\0b"', "line 1: base must name one YAML file"),
        ('seed: "\\UFFFFFFFF"', "not valid YAML"),
        ("%YAML 1." + "1" * 5000 + "\n---\nseed: 1", "not valid YAML"),
        ("seed: 1\nrun: \0", "line 2: not valid YAML: the character U+0000 is not allowed"),
        ("\tseed: 1", "not valid YAML"),
        ("seed: 1\n---\nseed: 2", "line 2: not valid YAML"),
        ("*" + "x" * 10_000, "not valid YAML"),
        ("model: {variant: B/1" + "0" * 1000 + "}", "model.variant must be"),
        ("a: &a {<<: *a}", "an alias refers to a value that contains it"),
    ],
    ids=lambda text: text[:24],
)
def test_what_is_not_readable_is_one_short_message(recipe, text, expected):
    assert expected in error_of(recipe(text))


def test_of_many_wrong_settings_the_first_are_named(recipe):
    text = "\n".join(f"k{i}: 1" for i in range(2000))
    with within(LIMIT_S), pytest.raises(SettingsError) as caught:
        load_config(recipe(text))
    lines = str(caught.value).splitlines()
    assert lines[0] == "2000 settings are wrong:"
    assert len(lines) == 22
    assert lines[-1].endswith("and 1,980 more")


@pytest.mark.parametrize("batch", ["1000000000000", "1" + "0" * 400, "1e300", "1e12"])
def test_a_batch_that_no_machine_has_room_for_is_refused_at_once(recipe, batch):
    text = f"data: {{global_batch_size: {batch}}}\noptim: {{accumulate_steps: 7}}"
    assert "data.global_batch_size: must be" in error_of(recipe(text))


def test_steps_and_examples_multiply_within_64_bits(recipe):
    assert "train.max_steps: must be at most 1e+12" in error_of(recipe("train: {max_steps: 1e13}"))


def test_every_number_has_a_largest_value(recipe):
    numbers = [s.key for s in all_settings() if s.type.split("|")[0] in ("int", "float")]
    assert len(numbers) > 50
    for key in numbers:
        assert f"{key}: must be " in error_of(recipe(""), [f"{key}=1e39"])


@pytest.mark.parametrize("tail", ["x", "_", ".", "e", "_.x", ".1.1"])
@pytest.mark.parametrize("unit", ["1", "1_1", "11_"])
def test_a_number_is_recognized_in_linear_time(unit, tail):
    for text in (unit * 100_000 + tail, "0." + unit * 100_000 + tail):
        start_s = time.process_time()
        _NUMBER.fullmatch(text)
        assert time.process_time() - start_s < 0.5


@pytest.mark.parametrize("content", ["seed: é".encode("utf-16"), "seed: é".encode("latin-1")])
def test_text_of_another_encoding_is_named(tmp_path, content):
    (tmp_path / "recipe.yaml").write_bytes(content)
    assert "line 1: not valid YAML: not UTF-8 text" in error_of(tmp_path / "recipe.yaml")


def test_a_byte_order_mark_is_skipped(tmp_path):
    (tmp_path / "recipe.yaml").write_bytes("seed: 7".encode("utf-8-sig"))
    assert load_config(tmp_path / "recipe.yaml").seed == 7


@pytest.mark.parametrize("kind", ["fifo", "zero", "large", "folder", "itself"])
@pytest.mark.parametrize("by_base", [True, False])
def test_a_recipe_is_a_regular_file_of_at_most_a_megabyte(recipe, tmp_path, kind, by_base):
    bad = tmp_path / "bad.yaml"
    if kind == "fifo":
        os.mkfifo(bad)
    elif kind == "folder":
        bad.mkdir()
    elif kind == "large":
        bad.write_text("# comment\n" * 200_000)
    else:
        bad.symlink_to("/dev/zero" if kind == "zero" else bad)
    message = error_of(recipe("base: bad.yaml") if by_base else bad)
    assert message.startswith("cannot read the recipe ")


def test_a_chain_of_bases_ends(recipe):
    for i in range(100):
        recipe(f"base: r{i + 1}.yaml", f"r{i}.yaml")
    assert "may have at most 20 files" in error_of(recipe("base: r0.yaml"))


ESCAPE = "\x1b]0;pwned\x07\u202e"


@pytest.mark.parametrize(
    "text",
    [
        '"{0}": 1',
        'seed: "{0}"',
        'data: {{path: "http://{0}"}}',
        'train: {{"{0}": 1}}',
        'model: {{variant: "{0}"}}',
        'base: "{0}"',
        '"{0}": 1\n"{0}": 2',
        '"data.path": "{0}"',
    ],
)
def test_no_message_has_a_control_character(recipe, text):
    assert r"\x1b]0;pwned\x07\u202e" in error_of(recipe(text.format(r"\x1b]0;pwned\x07\u202e")))


def test_no_message_about_a_file_of_a_hostile_name_has_a_control_character(recipe):
    assert r"\x1b]0;pwned\x07" in error_of(recipe("seed: x", f"{ESCAPE}.yaml"))


@pytest.mark.processes
def test_vit_report_of_a_hostile_run_folder_ends_with_one_message(tmp_path):
    (tmp_path / "config.yaml").write_text(laughs(30))
    done = subprocess.run(
        [sys.executable, "-m", "jobs.cli", "report", str(tmp_path)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "settings may have at most 10,000 values" in done.stderr
    assert len(done.stderr.splitlines()) == 1


NAMES = [setting.key for setting in all_settings()]
WORDS = [
    "{", "}", "[", "]", ",", ":", ": ", "- ", "? ", "\n", "\n  ", "&a ", "*a", "<<", "<<: *a", "|",
    ">", "'", '"', "!!int ", "!!float ", "!!map ", "!", "%YAML 1.1\n", "---\n", "...\n", "#", "\t",
    "\0", "null", "~", "1", "1e400", "-", "0x", "nan", "base: ", "\ufeff", "\\x1b", "\\ud800",
    "\U0010ffff", *sorted({part for key in NAMES for part in key.split(".")}),
]  # fmt: skip
RECIPES = st.one_of(
    st.binary(max_size=300),
    st.text(max_size=300).map(lambda text: text.encode(errors="surrogatepass")),
    st.lists(st.sampled_from(WORDS), max_size=60).map(lambda words: "".join(words).encode()),
)
FUZZ = settings(
    max_examples=int(os.environ.get("VIT_FUZZ_EXAMPLES", "300")),
    deadline=None,
    database=None,
    derandomize="VIT_FUZZ_EXAMPLES" not in os.environ,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@FUZZ
@given(content=RECIPES)
def test_any_bytes_are_settings_or_one_message(tmp_path, content):
    path = tmp_path / "recipe.yaml"
    path.write_bytes(content)
    load_or_explain(path)


@FUZZ
@given(
    key=st.one_of(st.sampled_from(NAMES), st.sampled_from(WORDS), st.text(max_size=60)),
    value=st.one_of(st.text(max_size=60), st.lists(st.sampled_from(WORDS)).map("".join)),
)
def test_any_setting_of_the_command_line_is_a_setting_or_one_message(tmp_path, key, value):
    path = tmp_path / "recipe.yaml"
    path.write_text("")
    load_or_explain(path, [f"{key}={value}"])
