"""Small experiments on synthetic images, for the tests of the loop."""

from pipeline.config import load_config
from pipeline.runtimes.single import SingleRuntime
from pipeline.training.assembly import build

# One block: a second would add a third to the time of every test, most of which compile a step.
TINY = """
seed: 3
data: {source: synthetic, num_classes: 4, num_examples: 50, image_size: 8, resize: none,
       global_batch_size: 12, label_smoothing: 0.1,
       augment: {flip: true, crop_padding: 1, rotation: 0.05, zoom: 0.1}}
model: {variant: Ti/4, width: 16, depth: 1, num_heads: 2, mlp_dim: 32}
optim: {base_lr: 2e-2, warmup_steps: 3, ema_momentum: 0.9, weight_decay: 0.1, clip_norm: 0.5}
train: {max_steps: 20, log_every_steps: 5, evaluate_every_steps: 10, deterministic: true}
monitor: {pictures: false, peak_tflops: 1}
"""


def tiny_config(folder, *settings):
    """The settings of a run of seconds, in a run folder below `folder`."""
    path = folder / "tiny.yaml"
    path.write_text(TINY)
    return load_config(path, [f"run.dir={folder / 'run'}", *settings])


def tiny(folder, *settings, runtime=None):
    """The experiment of `tiny_config`, on one device."""
    return build(tiny_config(folder, *settings), runtime or SingleRuntime("CPU:0"))
