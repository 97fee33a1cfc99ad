"""From labelled images to batches.

split.py       what a split is; which examples are held out
source.py      open_source(): the data set a recipe names; its mean and deviation
arrays.py      sets held in memory: digits, CIFAR, Fashion-MNIST, synthetic
cifar.py       CIFAR's original archive, read without trusting it
folder.py      sets held as files: train/<class>/*
order.py       which example stands at which position; random numbers by counter
crop_box.py    which part of an image is seen
preprocess.py  decode, cut out, resize, normalise
augment.py     flip, crop, rotation and zoom of whole batches
mix.py         targets
input.py       the tf.data graph that puts these together
"""
