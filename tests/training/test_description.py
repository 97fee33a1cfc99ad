"""What a run says before it trains."""

from pipeline.training.description import warnings_of
from tests.training.experiments import tiny


def test_it_warns_of_a_batch_larger_than_the_training_set_and_of_a_warm_up_longer_than_the_run(
    tmp_path,
):
    # 50 training images; 20 steps, 3 of them warm-up.
    assert warnings_of(tiny(tmp_path)) == []
    batch, warmup = warnings_of(
        tiny(tmp_path, "data.global_batch_size=120", "optim.warmup_steps=40")
    )
    assert batch.startswith(
        "warning: data.global_batch_size=120 is larger than the training set: each step sees its "
        "50 images 2.4 times. Set data.global_batch_size to 5 or less"
    )
    assert "warm-up of 40 steps (96 epochs) is longer than the run of 20 steps" in warmup
    assert "reaches 50% of its peak" in warmup
    assert "Set optim.warmup_steps=1" in warmup
