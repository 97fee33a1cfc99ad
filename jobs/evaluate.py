"""`vit evaluate RUN`"""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

from jobs.cli import run_process
from jobs.tensorflow_start import import_tensorflow
from pipeline.config import Config, parse_config
from pipeline.train.run_folder import RunFolder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this verb's arguments."""
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument(
        "--split",
        choices=("train", "validation", "test"),
        help="only this one; default: validation, and test where there is one",
    )
    parser.add_argument("--data", help="folder or archive of the data, if it has moved")
    parser.add_argument("--json", action="store_true", help="print one JSON object a split")


def run(arguments: argparse.Namespace) -> int:
    """Evaluates the weights that were best on validation."""
    folder = RunFolder(arguments.run)
    config = _config(folder, arguments.data)
    import_tensorflow()
    from pipeline.data.images import bad_images_named
    from pipeline.distribute.runtime import start
    from pipeline.train.best import restore_best
    from pipeline.train.experiment import build

    with (
        closing(start(config.distribute)) as runtime,
        runtime.noticing_lost_peers(),
        bad_images_named(),
    ):
        experiment = build(config, runtime)
        step = restore_best(experiment, folder)
        splits = [arguments.split] if arguments.split else ["validation", "test"]
        for split in splits:
            if split in experiment.source.splits:
                count = experiment.source.splits[split].num_examples
                row = {"step": step, "split": split, "examples": count}
                row |= experiment.evaluate(split)
                if runtime.is_chief:
                    print(json.dumps(row) if arguments.json else _line(row))
    return 0


def _config(folder: RunFolder, data: str | None) -> Config:
    tree: dict[str, Any] = folder.config().model_dump()
    if data is not None:
        tree["data"]["path"] = data
    return parse_config(tree, str(folder.path))


def _line(row: dict[str, Any]) -> str:
    return (
        f"{row['split']:<10}  {row['examples']:>8,} images  accuracy {row['accuracy']:.2%}  "
        f"top-5 {row['top_5_accuracy']:.2%}  loss {row['loss']:.4f}  "
        f"(weights of step {row['step']})"
    )


if __name__ == "__main__":
    run_process(["evaluate", *sys.argv[1:]])
