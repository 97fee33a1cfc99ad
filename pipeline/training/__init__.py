"""The training step, the training loop, and their parts.

assembly.py             builds an experiment from the settings
experiment.py           data, model, optimizer and runtime of a run in one object
step.py                 one training step, and the graph that runs several
gradients.py            the gradients of a replica's batch or of a microbatch
exact_step.py, fixed_point.py   the step with microbatches, and the exact sum of their gradients
input_ahead.py          input that is read ahead although operations are deterministic
evaluation_step.py      one evaluation step, and the graph that runs several
loop.py                 fit(): steps, stop requests, rollbacks, and what follows training
resuming.py             begins or resumes a run
step_actions.py         what follows certain steps: rows, evaluations, checkpoints
run_state.py            the state of the loop apart from variables
regrouping.py           continues after processes of an elastic job were lost or joined
evaluator.py            evaluates a split during training
rollback.py             returns to an earlier checkpoint after steps that were not finite
coordination.py         lets all processes agree on what to do before each call of a graph
timetable.py            the steps at which metrics, evaluations and checkpoints are due
position.py             the training state apart from variables
saver.py                saves and restores the checkpoints of a running job
stop_request.py         signals, a stop file, and a time limit
metrics.py              exact loss, top-1 and top-5 accuracy
predictions.py, prediction_pass.py   predictions as arrays, and the pass that gathers them
journal.py              writes rows of metrics, TensorBoard and terminal lines
tensorboard_content.py  settings, batches, position embeddings and attention for TensorBoard
step_statistics.py      norms, memory and FLOP/s for the metrics rows
speed.py                measures steps per second
callbacks.py            users' keras.callbacks
bad_steps.py            finds the replicas and examples of a non-finite gradient
memory.py, precision.py, xla.py, profiler.py   device memory, dtypes, XLA, profiles
reproducibility.py      what could make the bits of a deterministic run differ
plugin_checks.py        loads and checks users' code when a run starts
data_opening.py         opens a run's data, and compares it between processes
data_record.py          records a run's data, and detects later changes
starting_weights.py     loads `model.pretrained`
best_weights.py         loads the weights that were best on validation
trained_run.py          opens the data of a trained run for evaluation and reports
parity.py, exact_parity.py, parity_training.py   the checks that N workers train what one trains
description.py          describes a run before it trains
dry_run.py              describes what `vit train` would do, for --dry-run
"""
