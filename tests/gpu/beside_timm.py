"""Training steps of our model and of timm's on one GPU, in bfloat16, in turn in one run.

    KERAS_BACKEND=jax python -m tests.gpu.beside_timm --variants S/16,B/16

Ours is the model stage alone, on Keras's JAX backend, compiled as a whole with AdamW; timm's is
compiled by torch.compile, with PyTorch's fused AdamW under autocast. Each takes the largest batch
of 64, 128, 256, ... that fits, in a process of its own, and both are timed --rounds times in turn.
"of peak" is the arithmetic of the matrix products against a product of two matrices of 8192 x 8192
on the same GPU. Prints one JSON object a line. `--who ours` needs no PyTorch.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any

CONTENDERS = ("ours", "timm")
NAMES = {"Ti/16": "vit_tiny_patch16_224", "S/16": "vit_small_patch16_224",
         "B/16": "vit_base_patch16_224"}  # fmt: skip
CLASSES = 1000
LEARNING_RATE, DECAY, BETAS, EPSILON = 1e-3, 0.05, (0.9, 0.999), 1e-8

Step = Callable[[], None]  # one update; returns when the device has done it


def measure(who: str, given: argparse.Namespace) -> dict[str, Any]:
    """Images a second of one contender at the largest batch that fits."""
    make, peak = (_ours, _jax_peak) if who == "ours" else (_timm, _torch_peak)
    batches = [given.batch] if given.batch else [64 << i for i in range(7)]
    best: dict[str, Any] = {}
    for batch in batches:
        try:
            step = make(given.variants, given.image_size, batch)
            for _ in range(3):
                step()
        except Exception as error:  # each framework has its own for a full memory
            if not best:
                raise
            print(f"{who}: {batch} images do not fit: {type(error).__name__}", file=sys.stderr)
            break
        start_s = time.perf_counter()
        for _ in range(given.steps):
            step()
        rate = given.steps * batch / (time.perf_counter() - start_s)
        best = {"batch": batch, "images_per_second": rate}
    return best | {"peak_flops_per_second": peak(given.peak_side)}


def _ours(variant: str, size: int, batch: int) -> Step:
    import jax
    import jax.numpy as jnp

    from pipeline.config import ModelConfig
    from pipeline.model.vit import build_vit

    model = build_vit(ModelConfig(variant=variant, gelu="tanh"), image_size=size,
                      num_classes=CLASSES, dtype="mixed_bfloat16")  # fmt: skip
    images = jax.random.normal(jax.random.key(0), (batch, size, size, 3), jnp.bfloat16)
    labels = jax.random.randint(jax.random.key(1), (batch,), 0, CLASSES)

    def loss(weights: list[jax.Array], images: jax.Array, labels: jax.Array) -> jax.Array:
        logits, _ = model.stateless_call(weights, [], images, training=True)
        return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(batch), labels])

    def update(state: Any, images: jax.Array, labels: jax.Array) -> Any:
        number, weights, firsts, seconds = state
        number = number + 1
        gradients = jax.grad(loss)(weights, images, labels)
        firsts = [BETAS[0] * m + (1 - BETAS[0]) * g for m, g in zip(firsts, gradients, strict=True)]
        seconds = [BETAS[1] * v + (1 - BETAS[1]) * g * g
                   for v, g in zip(seconds, gradients, strict=True)]  # fmt: skip
        ahead = [1 - beta**number for beta in BETAS]
        weights = [
            w - LEARNING_RATE * (m / ahead[0] / (jnp.sqrt(v / ahead[1]) + EPSILON) + DECAY * w)
            for w, m, v in zip(weights, firsts, seconds, strict=True)
        ]
        return number, weights, firsts, seconds

    compiled = jax.jit(update, donate_argnums=0)
    values = [jnp.copy(variable.value) for variable in model.trainable_variables]
    zeros = [jnp.zeros_like(value) for value in values]
    state = [(jnp.float32(0), values, zeros, [jnp.copy(zero) for zero in zeros])]

    def step() -> None:
        state[0] = jax.block_until_ready(compiled(state[0], images, labels))

    return step


def _timm(variant: str, size: int, batch: int) -> Step:
    import timm
    import torch

    torch.set_float32_matmul_precision("high")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = timm.create_model(NAMES[variant], num_classes=CLASSES, img_size=size).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, weight_decay=DECAY, fused=True)
    # A second size would be compiled for any size, which is slower than what a user compiles.
    torch._dynamo.reset()
    compiled = torch.compile(model, dynamic=False)
    images = torch.randn(batch, 3, size, size, device=device)
    labels = torch.randint(0, CLASSES, (batch,), device=device)

    def step() -> None:
        with torch.autocast(device, torch.bfloat16):
            loss = torch.nn.functional.cross_entropy(compiled(images), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if device == "cuda":
            torch.cuda.synchronize()

    return step


def _jax_peak(side: int) -> float:
    import jax
    import jax.numpy as jnp

    matrix = jnp.ones((side, side), jnp.bfloat16)
    product = jax.jit(lambda a: a @ a)
    return _peak(lambda: jax.block_until_ready(product(matrix)), side)


def _torch_peak(side: int) -> float:
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    matrix = torch.ones(side, side, dtype=torch.bfloat16, device=device)

    def product() -> None:
        matrix @ matrix
        if device == "cuda":
            torch.cuda.synchronize()

    return _peak(product, side)


def _peak(product: Callable[[], Any], side: int) -> float:
    seconds = []
    for _ in range(6):
        start_s = time.perf_counter()
        product()
        seconds.append(time.perf_counter() - start_s)
    return 2 * side**3 / min(seconds[1:])


def operations_per_image(variant: str, size: int) -> float:
    """Of a training step: forward, and twice as much back."""
    from pipeline.config import ModelConfig
    from pipeline.model.architecture import architecture
    from pipeline.model.cost import flops_per_image

    return 3 * flops_per_image(architecture(ModelConfig(variant=variant)), size, CLASSES)


def main() -> None:
    """Reads the arguments; starts a process for each timing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--variants", default="S/16,B/16")
    parser.add_argument("--who", default=",".join(CONTENDERS))
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--batch", type=int, help="default: the largest that fits")
    parser.add_argument("--steps", type=int, default=20, help="in each timing")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--peak-side", type=int, default=8192)
    parser.add_argument("--one", choices=CONTENDERS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one is not None:
        print(json.dumps(measure(given.one, given)))
        return
    for variant in given.variants.split(","):
        rows: dict[str, list[dict[str, Any]]] = {who: [] for who in given.who.split(",")}
        for _ in range(given.rounds):
            for who, found in rows.items():
                found.append(_in_a_process(who, variant, given))
        for who, found in rows.items():
            rate = median(row["images_per_second"] for row in found)
            reached = operations_per_image(variant, given.image_size) * rate
            peak = max(row["peak_flops_per_second"] for row in found)
            print(json.dumps({"variant": variant, "who": who, "batch": found[0]["batch"],
                              "images_per_second": rate, "of_peak": reached / peak,
                              "peak_flops_per_second": peak}), flush=True)  # fmt: skip


def _in_a_process(who: str, variant: str, given: argparse.Namespace) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.gpu.beside_timm", "--one", who, "--variants", variant]
    for name in ("image_size", "steps", "peak_side"):
        command += [f"--{name.replace('_', '-')}", str(getattr(given, name))]
    if given.batch:
        command += ["--batch", str(given.batch)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=os.environ)
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
