"""Our recipe `keras_example` and the example from Keras's own layers, trained side by side."""

import keras
import numpy as np
import tensorflow as tf

from benchmarks import keras_example as example
from pipeline.config import load_config
from pipeline.recipes import find_recipe
from pipeline.runtimes.single import SingleRuntime
from pipeline.training.assembly import build
from pipeline.training.step import TRAIN_SUMS, empty_train_sums

STEPS = 6
DEPTH = 2  # of 8 blocks, which are all alike
SMALL = [
    "data.source=synthetic", "data.num_classes=10", "data.num_examples=64", "data.image_size=24",
    "data.global_batch_size=16", f"model.depth={DEPTH}", "model.dropout=0",
    "model.attention_dropout=0",
    "train.deterministic=true",  # as other tests of this process, for good
]  # fmt: skip


def test_the_same_weights_and_batches_give_the_same_losses(tmp_path, monkeypatch):
    monkeypatch.setattr(example, "DEPTH", DEPTH)
    config = load_config(find_recipe("keras_example"), [*SMALL, f"run.dir={tmp_path}"])
    experiment = build(config, SingleRuntime("CPU:0"))
    reference = example.keras_example(10, 24, dropout=False)
    example.copy_weights(experiment.model, reference)
    optimizer = keras.optimizers.AdamW(1e-3, weight_decay=0.1)
    # The one way in which the recipe differs from the source: see its header.
    matrices = [weight for weight in reference.trainable_weights if weight.name == "kernel"]
    optimizer.exclude_from_weight_decay(
        var_list=[w for w in reference.trainable_weights if all(w is not m for m in matrices)]
    )
    reference.compile(optimizer, keras.losses.CategoricalCrossentropy(from_logits=True))

    expected = []
    batches = experiment.train_iterator(0)
    for _ in range(STEPS):
        batch = next(batches)
        images = tf.reshape(batch["image"], [16, 24, 24, 3])  # from microbatches
        expected.append(reference.train_on_batch(images, tf.reshape(batch["target"], [16, 10])))
    expected = np.array(expected)

    got, batches = [], experiment.train_iterator(0)
    for _ in range(STEPS):
        sums = experiment.train(batches, empty_train_sums(), 1).sums
        named = dict(zip(TRAIN_SUMS, sums, strict=True))
        got.append(named["loss"] / 16)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-4)
    assert got[-1] < got[0]
