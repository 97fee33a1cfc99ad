"""The training step and loop, and what they need.

experiment.py           assembles data, model, optimizer and runtime
step.py                 one training step and one evaluation step, as graphs
loop.py                 fit(): resume, steps, evaluation, checkpoints, stop requests
coordination.py         what all processes do next, agreed before each call of a graph
timetable.py            the steps at which metrics, evaluations and checkpoints are due
position.py             where a run stands, apart from its variables
saver.py                the checkpoints of a running job
stop_request.py         signals, a stop file, and a time budget
metrics.py              exact loss, top-1 and top-5 accuracy
predictions.py, prediction_pass.py   predictions as arrays, and the pass that gathers them
journal.py              metrics rows, TensorBoard, terminal lines
tensorboard_content.py  settings, batches, position embeddings and attention for TensorBoard
step_statistics.py      norms, memory and FLOP/s for the metrics rows
speed.py                examples per second
callbacks.py            users' keras.callbacks
bad_steps.py            which replica and which examples made a gradient not finite
memory.py, precision.py, xla.py, profiler.py   device memory, dtypes, XLA, traces
plugin_checks.py        loads and checks users' code when a run starts
data_opening.py         opens a run's data, and compares it between processes
data_record.py          what a run records about its data, and what has changed since
starting_weights.py     `model.pretrained`
best_weights.py         the weights that were best on validation
trained_run.py          opens a trained run for evaluation and reports
parity.py, parity_training.py   the proof that N workers train what one worker trains
description.py          a run in words, before it trains
dry_run.py              what `vit train` would do, for --dry-run
"""
