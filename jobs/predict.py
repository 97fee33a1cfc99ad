"""`vit predict RUN IMAGE...`"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from jobs.cli import run_process
from jobs.tensorflow_start import import_tensorflow
from pipeline.errors import DataError
from pipeline.train.run_folder import RunFolder

TOP = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this verb's arguments."""
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument("images", type=Path, nargs="+", metavar="IMAGE", help="image file")
    parser.add_argument("--json", action="store_true", help="print one JSON object an image")


def run(arguments: argparse.Namespace) -> int:
    """Prints the five likeliest classes of each image; reports unreadable ones and goes on."""
    folder = RunFolder(arguments.run)
    config = folder.config()
    import_tensorflow()
    from pipeline.data.images import load_image
    from pipeline.train.best import load_predictor

    predict = load_predictor(folder)
    failed = 0
    for path in arguments.images:
        try:
            content = path.read_bytes()
            probabilities = predict(load_image(content, str(path), config.data))
        except OSError as error:
            print(f"vit predict: cannot read {path}: {error.strerror}", file=sys.stderr)
            failed += 1
            continue
        except DataError as error:
            print(f"vit predict: {error}", file=sys.stderr)
            failed += 1
            continue
        best = list(probabilities.items())[:TOP]
        if arguments.json:
            top = [{"class": name, "probability": p} for name, p in best]
            print(json.dumps({"image": str(path), "top": top}))
        else:
            print(path)
            print("\n".join(f"  {p:7.2%}  {name}" for name, p in best))
    return DataError.exit_code if failed else 0


if __name__ == "__main__":
    run_process(["predict", *sys.argv[1:]])
