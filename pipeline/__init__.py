"""A training pipeline for Vision Transformers, one room a stage.

    errors       the ways a run can end, each with its exit code
    config       frozen, validated settings; load_config()
    data/        where examples come from, their order, augmentation: the tf.data graph
    model/       the Vision Transformer on keras.ops, and the table of variants
    optim/       learning-rate schedule; AdamW: what decays, clipping, averaged weights
    distribute/  Runtime: how copies of the model work together
    checkpoint   write, find, verify, restore, prune
    monitor/     TensorBoard, metrics.jsonl, what the terminal shows
    train/       step, loop, exact metrics, the parity proof, and `build`, where all stages meet

Imports go one way, and tests/test_architecture.py holds it:

    errors <- config <- data | model | optim | distribute | checkpoint | monitor <- train <- jobs
"""
