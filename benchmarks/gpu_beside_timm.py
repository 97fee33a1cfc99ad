"""Compares training steps of our model and of timm's on one GPU, in bfloat16.

    KERAS_BACKEND=jax python -m benchmarks.gpu_beside_timm --variants S/16,B/16

Ours is the model without the input stage, on Keras's JAX backend, compiled together with AdamW.
timm's model is compiled by torch.compile, and trained with PyTorch's fused AdamW under autocast.
Each is timed in separate processes, --rounds times in turn: first with all of --batches that fit,
then with the fastest. "of peak" compares the FLOP/s of the matrix products with those of a product
of two random matrices of 8192 x 8192 on the same GPU. The script prints one JSON object per line.
`--who ours` does not need PyTorch.

`--feed FOLDER` times ours once more, with batches that our input stage produces from
FOLDER/train/CLASS/* (decoding, random crop, resizing, flip). This requires TensorFlow, with or
without its GPU libraries.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

CONTENDERS = ("ours", "timm")
NAMES = {"Ti/16": "vit_tiny_patch16_224", "S/16": "vit_small_patch16_224",
         "B/16": "vit_base_patch16_224"}  # fmt: skip
CLASSES = 1000
LEARNING_RATE, DECAY, BETAS, EPSILON = 1e-3, 0.05, (0.9, 0.999), 1e-8

Step = Callable[[], Any]  # Starts one update and returns its result.
Contender = tuple[Step, Callable[[Any], None]]  # A step, and a function that waits for its result.


def measure(who: str, given: argparse.Namespace) -> dict[str, Any]:
    """Measures the images/s of one implementation at its fastest batch size."""
    make, peak = (_ours, _jax_peak) if who == "ours" else (_timm, _torch_peak)
    rates: dict[int, float] = {}
    for batch in (int(batch) for batch in given.batches.split(",")):
        try:
            rates[batch] = batch / _seconds(make(given.variants, given.image_size, batch), given)
        except Exception as error:  # Each framework has its own error for out of memory.
            if not rates:
                raise
            print(f"{who}: {batch} images do not fit: {type(error).__name__}", file=sys.stderr)
            break
    best = max(rates, key=lambda batch: rates[batch])
    found = {"batch": best, "images_per_second": rates[best], "batches": rates,
             "peak_flops_per_second": peak(given.peak_side)}  # fmt: skip
    if who == "ours" and given.feed is not None:
        fed = _ours(given.variants, given.image_size, best, given.feed)
        found["fed_images_per_second"] = best / _seconds(fed, given)
    return found


def _seconds(contender: Contender, given: argparse.Namespace) -> float:
    """Returns the seconds per step. Like in training, a step does not wait for the one before."""
    step, wait = contender
    for _ in range(3):
        wait(step())
    start_s = time.perf_counter()
    for _ in range(given.steps - 1):
        step()
    wait(step())
    return (time.perf_counter() - start_s) / given.steps


def _ours(variant: str, size: int, batch: int, feed: str | None = None) -> Contender:
    import jax
    import jax.numpy as jnp

    from pipeline.config import ModelConfig
    from pipeline.model.vit import build_vit

    _check_attention()
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

    fixed = (images, labels)
    batches = None if feed is None else _fed_batches(feed, size, batch)

    def step() -> Any:
        state[0] = compiled(state[0], *(fixed if batches is None else next(batches)))
        return state[0]

    return step, jax.block_until_ready


def _fed_batches(folder: str, size: int, batch: int) -> Iterator[tuple[Any, Any]]:
    """Yields batches of our input stage: bfloat16 [batch, size, size, 3] and labels, on the GPU."""
    import jax.numpy as jnp
    import tensorflow as tf

    from pipeline.config import AugmentConfig, DataConfig
    from pipeline.data.input import train_dataset
    from pipeline.data.shard import Shard
    from pipeline.data.sources.source import open_source

    tf.config.set_visible_devices([], "GPU")  # TensorFlow would take the memory that JAX needs.
    augment = AugmentConfig(resized_crop_min_area=0.05, flip=True)
    config = DataConfig(source="image_folder", path=folder, image_size=size,
                        global_batch_size=batch, augment=augment)  # fmt: skip
    source = open_source(config, seed=0)
    half = (0.5, 0.5, 0.5)
    dataset = train_dataset(
        source.splits["train"], config, num_classes=len(source.classes), mean=half, std=half,
        seed=0, start_step=0, shard=Shard(),
    )  # fmt: skip
    for made in dataset.as_numpy_iterator():
        yield jnp.asarray(made["image"], jnp.bfloat16), jnp.asarray(made["target"].argmax(axis=1))


def _check_attention() -> None:
    """Compares the attention kernel, which computes in 16 bits, with products in float32."""
    import jax
    import jax.numpy as jnp

    from pipeline.model.attention import attend
    from pipeline.model.backend import fused_attention

    for tokens in (196, 197):
        shape = (4, 3, tokens, 64)
        given = [jax.random.normal(jax.random.key(i), shape, jnp.bfloat16) for i in range(4)]
        if jax.devices()[0].platform == "gpu" and fused_attention(*given[:3]) is None:
            raise AssertionError("attention has no kernel on this GPU")
        query, key, value, upstream = (x.astype("float32") for x in given)
        found = []
        for dtype in ("bfloat16", "float32"):
            parts = (x.astype(dtype) for x in (query / 8, key, value))
            result, back = jax.vjp(lambda q, k, v: attend(q, k, v, 0.0, None, "check"), *parts)
            found.append([x.astype("float32") for x in (result, *back(upstream.astype(dtype)))])
        for ours, exact in zip(*found, strict=True):
            error = jnp.linalg.norm(ours - exact) / jnp.linalg.norm(exact)
            if not error < 0.02:
                raise AssertionError(f"attention is off by {float(error):.2g} of its norm")


def _timm(variant: str, size: int, batch: int) -> Contender:
    import timm
    import torch

    torch.set_float32_matmul_precision("high")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = timm.create_model(NAMES[variant], num_classes=CLASSES, img_size=size).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, weight_decay=DECAY, fused=True)
    # After a second size, torch.compile would compile for all sizes, which is slower.
    torch._dynamo.reset()  # noqa: SLF001  # there is no public way
    compiled = torch.compile(model, dynamic=False)
    images = torch.randn(batch, 3, size, size, device=device)
    labels = torch.randint(0, CLASSES, (batch,), device=device)

    def step() -> None:
        with torch.autocast(device, torch.bfloat16):
            loss = torch.nn.functional.cross_entropy(compiled(images), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step, _torch_wait


def _torch_wait(_: Any) -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _jax_peak(side: int) -> float:
    import jax
    import jax.numpy as jnp

    matrix = jax.random.normal(jax.random.key(0), (side, side), jnp.bfloat16)
    product = jax.jit(lambda a: a @ a)
    return _peak((lambda: product(matrix), jax.block_until_ready), side)


def _torch_peak(side: int) -> float:
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    matrix = torch.randn(side, side, dtype=torch.bfloat16, device=device)
    return _peak((lambda: matrix @ matrix, _torch_wait), side)


def _peak(contender: Contender, side: int) -> float:
    product, wait = contender
    seconds = []
    for _ in range(11):
        start_s = time.perf_counter()
        wait(product())
        seconds.append(time.perf_counter() - start_s)
    return 2 * side**3 / min(seconds[1:])


def operations_per_image(variant: str, size: int) -> float:
    """Returns the FLOPs of a training step per image: forward, and twice as many backward."""
    from pipeline.config import ModelConfig
    from pipeline.model.architecture import architecture
    from pipeline.model.flops import flops_per_image

    return 3 * flops_per_image(architecture(ModelConfig(variant=variant)), size, CLASSES)


def main() -> None:
    """Starts a process for each timing, and prints the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--variants", default="S/16,B/16")
    parser.add_argument("--who", default=",".join(CONTENDERS))
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument(
        "--batches",
        default="64,128,256,512,1024",
        help="batch sizes; those that do not fit are skipped",
    )
    parser.add_argument("--steps", type=int, default=20, help="steps per timing")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--peak-side", type=int, default=8192)
    parser.add_argument("--feed", metavar="FOLDER", help="images for the input stage")
    parser.add_argument("--one", choices=CONTENDERS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one is not None:
        print(json.dumps(measure(given.one, given)))
        return
    for variant in given.variants.split(","):
        rows: dict[str, list[dict[str, Any]]] = {who: [] for who in given.who.split(",")}
        for _ in range(given.rounds):
            for who, found in rows.items():
                batches = str(found[0]["batch"]) if found else given.batches
                found.append(_in_a_process(who, variant, batches, given))
        peak = max(row["peak_flops_per_second"] for found in rows.values() for row in found)
        for who, found in rows.items():
            rate = median(row["images_per_second"] for row in found)
            reached = operations_per_image(variant, given.image_size) * rate
            row = {"variant": variant, "who": who, "batch": found[0]["batch"],
                   "images_per_second": rate, "of_peak": reached / peak,
                   "rounds": [row["images_per_second"] for row in found],
                   "batches": found[0]["batches"], "peak_flops_per_second": peak}  # fmt: skip
            if "fed_images_per_second" in found[0]:
                row["fed_images_per_second"] = median(r["fed_images_per_second"] for r in found)
            print(json.dumps(row), flush=True)


def _in_a_process(
    who: str, variant: str, batches: str, given: argparse.Namespace
) -> dict[str, Any]:
    command = [
        sys.executable,
        "-m",
        "benchmarks.gpu_beside_timm",
        "--one",
        who,
        "--variants",
        variant,
    ]
    command += ["--batches", batches]
    for name in ("image_size", "steps", "peak_side"):
        command += [f"--{name.replace('_', '-')}", str(getattr(given, name))]
    command += [] if given.feed is None else ["--feed", given.feed]
    # Later rounds reuse the compilation cache, like torch.compile does.
    kept = str(Path(tempfile.gettempdir(), "beside_timm_jax"))
    settings = {"JAX_COMPILATION_CACHE_DIR": kept, "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.92"}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True,
                          env=settings | os.environ)  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
