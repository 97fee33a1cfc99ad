"""The Python API. The verbs call the same functions.

results.py      what the functions return
settings.py     settings given as a mapping
training.py     train, and what `vit train` needs besides
start.py        one start of a run, and what a finished run has
run_training.py the part that imports TensorFlow: joins the other processes and trains
evaluation.py   evaluate
prediction.py   load_model and predict

Importing this package imports neither TensorFlow nor pydantic.
"""
