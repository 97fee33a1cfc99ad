"""The Python API. The verbs call the same functions.

results.py      what the functions return
settings.py     settings given as a mapping
training.py     train, and what `vit train` needs besides
evaluation.py   evaluate
prediction.py   load_model and predict

Importing this package imports neither TensorFlow nor pydantic.
"""
