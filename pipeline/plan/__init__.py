"""Predicts what N GPUs achieve: a model of step time, memory, input and checkpoints.

hardware.py    GPUs and links
reduction.py   the time of an all-reduce
predict.py     the time of a training step and of a whole training
scenario.py    the plan of a recipe on a cluster, for one number of GPUs
data_size.py   the number of images that a recipe trains on
table.py       a plan as text
plot.py        a plan as a picture
"""
