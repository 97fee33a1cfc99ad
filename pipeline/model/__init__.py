"""The Vision Transformer.

architecture.py     the table of variants, and the settings that modify a variant
vit.py              the model, and `build_vit`
custom.py           a user's model, `model.builder`
layers.py           its layers, thin Keras classes around the pure functions
attention.py        multi-head attention with a gradient in closed form
elementwise.py      GELU and layer normalization with gradients in closed form
functions.py        patches, linear layers and fixed positions
dropout.py          dropout and stochastic depth as functions of a seed
stem.py             a convolutional stem that replaces the patch embedding
initial.py          distributions and seeds of the initial weights
backend.py          operations that Keras does not provide, for TensorFlow and JAX
cost.py             numbers of parameters and activation memory
flops.py            numbers of floating-point operations
memory.py           an estimate of the memory that training needs
attention_maps.py   attention probabilities of a trained model, for display
weights/            loads published weights
"""
