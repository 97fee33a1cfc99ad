"""From labelled images to batches.

sources/        where examples come from; source.py: open_source(), and the mean and deviation
split.py        splits of labelled examples; which examples are held out
duplicates.py   images that occur in two splits or under two labels
fingerprint.py  whether a later start reads the same examples
prepare/        writes any source as shards, and verifies a prepared set
batch.py        which global batches replicas can share
order.py        which example stands at which position; random numbers by counter
reader.py       fetches and decodes the images of a batch
decode/         bytes to pixels: which decoder, orientation, damage
encode.py       what an image is stored as
images.py       encoded images to pixels, a batch at a time; an error or a gap for a bad one
crop_box.py     which part of an image is seen
preprocess.py   cuts out, resizes and normalizes
augment/        changes to whole batches; augment.py selects them
input.py        the tf.data graph that combines these
"""
