"""A training pipeline for Vision Transformers, one room a stage.

    errors       the ways a run can end, each with its exit code
    config       frozen, validated settings; load_config()
    splitmix     random bits as a function of integers
    data/        where examples come from, their order, augmentation: the tf.data graph
    model/       the Vision Transformer on keras.ops, and the table of variants
    optim/       learning-rate schedule; what is trained; AdamW: clipping, decay, averaged weights
    distribute/  Runtime: how copies of the model work together
    checkpoint/  snapshots; write in the background, find, verify, restore, prune
    monitor/     TensorBoard, metrics.jsonl, what the terminal shows, the report's page, what ends a
                 job that hangs
    train/       step, loop, exact metrics, the run folder and its lock, requests to stop, the
                 parity proof, and `build`, where all stages meet
    plan/        what N GPUs will give: a written model of time and memory
    export/      a trained model as one that needs none of this: written, compared, read back

Imports go one way, and tests/test_architecture.py holds it:

    errors, splitmix <- config <- data | model | optim | distribute | checkpoint | monitor
           <- train | export | plan <- jobs
"""
