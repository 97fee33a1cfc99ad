"""Loads published ViT weights into the variables of a network.

files.py      finds the file, detects its format by content, and reads its tensors
layouts.py    tensor names and shapes of Google, Hugging Face and timm, and those of this package
published.py  weights and metadata of a file, independent of its layout
resample.py   resamples position and patch embeddings to other sizes
fit.py        converts weights for a given network, and reports the result by name
catalog.py    well-known checkpoints: their URLs, and the settings they need

None of these modules imports Keras or TensorFlow.
"""
