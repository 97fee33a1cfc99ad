"""Files in the current folder that have the names of modules break no command."""

import ast
import os
import re
import sys

import numpy as np
import pytest
from PIL import Image

from tests.jobs.commands import AS_INSTALLED, ROOT, shadow_modules, vit_process

pytestmark = pytest.mark.processes


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "current"
    made.mkdir()
    shadow_modules(made)
    return made


def test_the_processes_of_vit_prepare_are_not_led_astray(folder, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 3), np.uint8)
    for index, image in enumerate(pixels):
        file = tmp_path / f"images/train/class{index % 2}/{index}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(file)
    options = ["--shard-size", 3, "--processes", 2]
    words = ["prepare", tmp_path / "images", tmp_path / "out", *options]
    done = vit_process(*words, start=AS_INSTALLED, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "of the current folder" not in done.stderr


def test_what_vit_launch_starts_finds_the_modules_beside_it(folder):
    (folder / "helper.py").write_text("NUMBER = 42\n")
    (folder / "script.py").write_text("import helper; print('found', helper.NUMBER)\n")
    for name in ("random", "json", "threading"):
        (folder / f"{name}.py").unlink()
    launch = ["launch", "--hosts", "localhost", "--runtime", "multi_worker"]
    done = vit_process(*launch, "--", sys.executable, "script.py", start=AS_INSTALLED, cwd=folder)
    assert (done.returncode, done.stdout) == (0, "found 42\n"), done.stderr


HOSTILE = [
    *sys.stdlib_module_names, "jobs", "pipeline", "k8s", "numpy", "tensorflow", "keras", "yaml",
    "pydantic", "rich", "PIL", "matplotlib", "horovod", "kubernetes", "sitecustomize",
    "usercustomize", "evil",
]  # fmt: skip
TINY = ["train.max_steps=2", "data.global_batch_size=8", "model.width=16", "model.depth=1",
        "model.num_heads=2", "model.mlp_dim=32"]  # fmt: skip


@pytest.fixture
def hostile(tmp_path):
    """A folder in which every module that Python finds there leaves a mark."""
    made = tmp_path / "hostile"
    made.mkdir()
    mark = f"open({str(tmp_path / 'executed')!r}, 'a').write(__name__ + chr(10))\n"
    for name in HOSTILE:
        (made / f"{name}.py").write_text(mark)
    for package in ("jobs", "pipeline"):
        (made / f"{package}.py").unlink()
        (made / package).mkdir()
        for module in ("__init__", "cli", "launch", "errors"):
            (made / package / f"{module}.py").write_text(mark)
    (made / "matplotlibrc").write_text("backend: module://evil\ntext.usetex: True\n")
    return made


def vit_in(folder, *words):
    done = vit_process(*words, start=AS_INSTALLED, cwd=folder)
    executed = folder.parent / "executed"
    assert not executed.exists(), executed.read_text()
    assert "Traceback" not in done.stderr, done.stderr
    return done


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--version"], 0),
        (["pretrained", "list"], 0),
        (["plan", "digits", "--gpus", "1", "--plot", "plan.png"], None),
        (["submit", "digits", "--image", "i", "--render"], None),
        (["jobs"], None),
        (["doctor", "digits", *TINY], None),
        (["train", "digits", *TINY, "run.dir=run"], 0),
        (["launch", "--hosts", "localhost", "--", "true"], None),
        (["report", "run"], None),
        (["evaluate", "run"], None),
        (["predict", "run", "x.png"], None),
        (["export", "run"], None),
        (["prepare", "nowhere", "out"], None),
    ],
    ids=lambda words: words[0] if isinstance(words, list) else "",
)
def test_no_module_of_the_current_folder_is_executed(hostile, words, code):
    done = vit_in(hostile, *words)
    assert code is None or done.returncode == code, done.stderr


def test_what_looks_into_horovod_executes_no_module_of_the_current_folder(hostile):
    # As under `vit launch`, whose commands may need the modules beside them.
    code = (
        "import sys; sys.path.remove('')\n"
        "from pathlib import Path\n"
        "from pipeline.runtimes.horovod_build import load_controllers\n"
        "try: load_controllers(Path('no.so'))\n"
        "except OSError as error: print(error)\n"
    )
    done = vit_process(start=("-c", code), cwd=hostile)
    assert "no.so: cannot open shared object file" in done.stdout, done.stderr
    assert not (hostile.parent / "executed").exists()


def test_a_fifo_of_matplotlib_s_settings_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "matplotlibrc")
    done = vit_process("plan", "digits", "--plot", "plan.png", start=AS_INSTALLED, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_every_python_is_started_by_the_functions_that_leave_the_current_folder_out():
    allowed = ROOT / "pipeline/runtimes/interpreter.py"
    for path in {*ROOT.glob("pipeline/**/*.py"), *ROOT.glob("jobs/**/*.py")} - {allowed}:
        for node in ast.walk(ast.parse(path.read_text())):
            is_python = isinstance(node, ast.Attribute) and node.attr == "executable"
            assert not is_python, f"{path}, line {node.lineno}"


@pytest.mark.parametrize("script", sorted((ROOT / "tools").glob("*.sh")), ids=lambda p: p.name)
def test_every_python_of_a_script_leaves_the_current_folder_out(script):
    for number, line in enumerate(script.read_text().splitlines(), 1):
        starts = re.search(r'(?:^|[\s(])(?:"\$python"|python3?) (-[a-zA-Z]*\b|- )', line)
        if starts and not line.lstrip().startswith(("#", "wrong", "echo")):
            safe = starts[1].startswith(("-P", "-I")) or "PYTHONSAFEPATH=1" in line
            assert safe, f"{script.name}, line {number}: {line.strip()}"
