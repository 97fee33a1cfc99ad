"""Published weights in: a file of somebody else's becomes the variables of our network.

    files     which file a path means, what kind it is by its content, its tensors
    layouts   the names and shapes of Google's, Hugging Face's and timm's files, and ours
    resample  another grid of positions, another size of patches
    fit       what of it a given network takes, and a report by name
    catalog   well-known checkpoints: where they are, and the settings they need

All but `fit` come without Keras.
"""
