"""Shows a run to users: terminal, TensorBoard, figures, watchdog.

progress.py             progress of training on a terminal or in a log
bars.py                 progress bars
phase.py                the phases before the first step
terminal.py             a rich console that escapes untrusted text
tensorboard.py          writes TensorBoard event files
tensorboard_server.py   starts the TensorBoard server of `vit board`
training_figures.py     figures of a run: batch, patches, positions, attention
preview.py              a page with examples as the model sees them
watchdog.py             ends a process that hangs
"""
