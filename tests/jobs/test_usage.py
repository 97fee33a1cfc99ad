"""What `vit` answers where a verb, a recipe or an option does not exist. Nothing here trains."""

import subprocess
import sys

import pytest

from jobs.cli import VERBS, main


@pytest.fixture
def vit(capsys, monkeypatch, tmp_path):
    """Runs one command in an empty folder; returns its exit code, and what it printed."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        try:
            code = main(arguments)
        except SystemExit as ended:
            code = ended.code
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return call


def test_vit_alone_prints_its_help_and_exits_2_so_that_a_script_that_lost_its_verb_fails(vit):
    code, out, err = vit()
    assert code == 2
    assert (out, err) == (vit("--help")[1], "")
    assert all(f"  {verb}" in out for verb in VERBS)


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("trian", "did you mean train?"),
        ("Train", "did you mean train?"),
        ("mpilaunch", "did you mean mpi-launch?"),
        ("digits", "it is a recipe; did you mean `vit train digits`?"),
        ("mine.yaml", "did you mean `vit train mine.yaml`?"),
        ("zzz", "the verbs are train, evaluate, "),
        ("--zzz", "the verbs are train, evaluate, "),
    ],
)
def test_a_verb_that_does_not_exist_suggests_the_nearest(vit, tmp_path, word, hint):
    (tmp_path / "mine.yaml").touch()
    code, _, err = vit(word, "seed=1")
    assert code == 2
    assert err.startswith(f"vit: no verb '{word}': ")
    assert hint in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("digts", "did you mean digits?"),
        ("digits.yaml", "there is no such file; did you mean digits?"),
        ("image-folder", "did you mean image_folder?"),
        ("birdss", "did you mean birds.yaml?"),
        ("birds", "did you mean birds.yaml?"),
        ("bird.yaml", "there is no such file; did you mean birds.yaml?"),
        ("recipes/fishes.yaml", "there is no such file; did you mean recipes/fish.yml?"),
        ("nowhere/a.yaml", "there is no folder 'nowhere'"),
        ("zzz.yaml", "there is no such file; Give the path of a YAML file, or one of cifar10,"),
        ("recipes", "this is a folder. Give a YAML file, such as recipes/fish.yml"),
        (
            "run",
            "this is a folder. It is a run folder; its settings are the recipe run/config.yaml",
        ),
        ("seed=1", "the recipe comes first"),
        ("x" * 5000, "no recipe"),
    ],
)
@pytest.mark.parametrize("verb", ["train", "plan"])
def test_a_recipe_that_does_not_exist_suggests_the_nearest(vit, tmp_path, verb, name, hint):
    for folder in ("recipes", "run"):
        (tmp_path / folder).mkdir()
    for file in ("birds.yaml", "recipes/fish.yml", "run/config.yaml"):
        (tmp_path / file).touch()
    code, _, err = vit(verb, name)
    assert code == 2
    assert err.startswith(f"vit {verb}: no recipe '{name}': ")
    assert hint in err


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        ("--epochs 3", "settings are given without dashes: train.epochs=3"),
        ("--epochs=3", "settings are given without dashes: train.epochs=3"),
        ("--lr 1e-3 seed=1", "without dashes: optim.base_lr=1e-3"),
        ("--lr -1", "without dashes: optim.base_lr=-1"),
        ("--batch-size 8", "without dashes: data.global_batch_size=8"),
        ("--optim.base_lr=1", "without dashes: optim.base_lr=1"),
        ("--output", "without dashes: run.dir=VALUE"),
        ("--deterministic seed=1", "without dashes: train.deterministic=VALUE"),
        ("--dryrun", "no option --dryrun; did you mean --dry-run?"),
        ("--zzz", "no option --zzz; --help lists the options"),
    ],
)
def test_a_setting_given_as_an_option_is_explained(vit, words, hint):
    code, _, err = vit("train", "digits", *words.split())
    assert code == 2
    assert hint in err.splitlines()[-1]


def test_an_option_of_a_verb_without_settings_is_not_taken_for_one(vit):
    code, _, err = vit("predict", "run", "image.png", "--epochs", "3")
    assert code == 2
    assert (
        err.splitlines()[-1] == "vit predict: error: no option --epochs; --help lists the options"
    )


@pytest.mark.parametrize("option", ["--processes-per-nodes", "--nproc-per-node", "-np"])
def test_a_mistaken_option_of_a_verb_that_ends_in_a_command_is_explained(vit, option):
    code, _, err = vit("launch", "--hosts", "localhost", option, "2", "--", "true", "--slots")
    assert code == 2
    assert err.splitlines()[-1] == (
        f"vit launch: error: no option {option}; did you mean --processes-per-node?"
    )


def test_more_arguments_than_a_verb_takes_are_named(vit):
    code, _, err = vit("export", "run", "saved_model", "here")
    assert code == 2
    assert err.endswith("vit export: error: too many arguments: saved_model here\n")


@pytest.mark.parametrize(
    "command",
    [
        "prepare digits s3://bucket/a", "prepare s3://bucket/a out", "plan digits --plot s3://bucket/a",
        "export run --out s3://bucket/a", "evaluate s3://bucket/a", "predict s3://bucket/a x.png",
        "report run --out s3://bucket/a", "board run s3://bucket/a", "predict run x.png s3://bucket/a",
        "evaluate run --data s3://bucket/a", "report run --data s3://bucket/a",
        "evaluate run --data s3:/bucket/a", "predict run s3:/bucket/a", "prepare s3:/bucket/a out",
    ],
)  # fmt: skip
def test_an_address_is_refused_where_a_local_path_is_meant(vit, tmp_path, command):
    code, _, err = vit(*command.split())
    assert code == 2
    assert "s3:// addresses are not supported. Mount the storage as a folder" in err
    assert "Received: s3://bucket/a" in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("verb", ["train", "doctor", "plan"])
def test_a_verb_without_arguments_asks_for_the_recipe_alone(vit, verb):
    code, _, err = vit(verb)
    assert code == 2
    assert err.splitlines()[-1] == (
        f"vit {verb}: error: the following arguments are required: recipe"
    )


@pytest.mark.parametrize("setting", ["optim.lr=1", "run=x", "optim.accumulate_steps=7", "seed=inf"])
def test_a_wrong_setting_of_the_command_line_is_not_blamed_on_the_recipe_s_file(vit, setting):
    code, _, err = vit("train", "digits", setting)
    assert code == 2
    assert err.startswith("vit train: on the command line: ")
    assert "digits.yaml" not in err


@pytest.mark.processes
def test_the_help_comes_without_what_only_settings_need():
    code = "import sys, jobs.cli; sys.exit('pydantic' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
