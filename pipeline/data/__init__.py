"""From labeled images to batches.

sources/        data sets; source.py has open_source() and measures mean and standard deviation
paths.py        the paths of many files in little memory
split.py        splits of labeled examples; the choice of validation examples
duplicates.py   finds images that are in two splits or have two labels
fingerprint.py  detects whether a later start reads the same examples
prepare/        writes any data set as shards, and verifies a prepared data set
batch.py        checks that replicas can share the global batch
shard.py        which examples of the global batch belong to a process
order.py        the order of the examples; counter-based random numbers
reader.py       reads and decodes the images of a batch
decode/         bytes to pixels: choice of decoder, orientation, detection of damage
encode.py       the stored form of an image
images.py       decodes batches of images, and handles images that cannot be read
crop_box.py     the part of an image that is used
preprocess.py   crops, resizes and normalizes
resample.py     resizes an image with a filter that numba compiles
lanes.py        vector instructions for resample.py
native.py       compiles functions with numba
normalize.py    normalizes batches; numba compiles it
filter_steps.py roundings of this filter, which are the same in preprocess.py
augment/        augmentation of whole batches; augment.py applies what the recipe selects
stages.py       the functions of the pipeline, for one process and any other
input.py        the tf.data pipeline that combines all of these
"""
