"""From labelled images to batches.

split.py       what a split is; which examples are held out
source.py      open_source(): the data set a recipe names; its mean and deviation
arrays.py      sets held in memory: digits, CIFAR, Fashion-MNIST, synthetic
cifar.py       CIFAR's original archive, read without trusting it
folder.py      sets held as files: train/<class>/*
order.py       which example stands at which position; random numbers by counter
preprocess.py  decode, resize, normalise
files.py       files to images, a batch at a time, and what becomes of those that are none
augment.py     which changes, drawn from which numbers; flip, crop, rotation and zoom
groups.py      different changes to different examples of a batch
rand_augment.py, erase.py, color.py, levels.py, affine.py   the other changes to whole batches
mix.py         targets; mixup and CutMix
input.py       the tf.data graph that puts these together
"""
