"""Checks a recipe, its data and the machine before training.

examine.py        runs all checks in order
finding.py        the result of a check; collects results, including failures of checks
installation.py   checks of Python, packages and Horovod
machine.py        checks of GPUs, memory, /dev/shm, open files and clocks
folder.py         checks of the run folder
data.py           checks of the data set
training.py       checks of batch, network, learning rate, memory and checkpoints
processes.py      the processes of the job
display.py        prints results on a terminal, as plain lines, or as JSON
parity_check.py   --parity: N workers train what one worker trains
exact_parity_check.py   --parity with train.deterministic: the same bits
parity_runs.py    the training runs that --parity compares, in processes of their own
"""
