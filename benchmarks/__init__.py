"""Benchmarks: everything that measures. They are not part of the wheel or the image.

`python -m benchmarks WHAT` runs one of them; command.py lists them. Other modules are parts of a
benchmark with the same prefix, or:

bars.py, line.py       the plot of all benchmarks; a line of the input benchmark
first_batch.py         the time to the first batch, for the input benchmark
photographs.py         images for benchmarks
keras_example.py       the network of the Keras example, as a reference
keras_example_fit.py   trains it as its authors do
contenders/            other libraries, each in an environment of its own
gpu_beside_timm.py     compares the model with timm's on a GPU; run as a module of its own
"""
