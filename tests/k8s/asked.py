"""Jobs as they are asked for on the command line."""

import argparse

from jobs.submit_options import add_job_arguments, parse_job
from k8s.render import render, settings_for_cluster
from pipeline.config import load_config
from pipeline.recipes import find_recipe

TOKEN = "a-token-of-the-tests-" + "0123456789abcdef"
COMMON = "--name digits --image registry.example.com/vit:1.0 --claim shared"


def asked(options, verb="train"):
    """The job of these options; those of COMMON are given before them."""
    parser = argparse.ArgumentParser()
    add_job_arguments(parser)
    return parse_job(parser.parse_args(f"{COMMON} {options}".split()), verb)


def rendered(options, *settings):
    """The manifests of digits with these options."""
    job = asked(options)
    config = load_config(find_recipe("digits"), [f"run.dir=runs/{job.name}", *settings])
    return render(job, TOKEN, settings_for_cluster(config, job))
