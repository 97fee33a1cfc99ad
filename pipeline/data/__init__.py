"""From labelled images to batches.

split.py       what a split is; which examples are held out
sources/       where examples come from; source.py: open_source(), their mean and deviation
prepare/       any of them written as shards, and a prepared set verified
order.py       which example stands at which position; random numbers by counter
decode/        bytes to pixels: which decoder, orientation, damage
encode.py      what an image is stored as
images.py      encoded images to pixels, a batch at a time; an error or a gap for a bad one
crop_box.py    which part of an image is seen
preprocess.py  decode, cut out, resize, normalise
augment/       changes to whole batches; augment.py: which, drawn from which numbers
input.py       the tf.data graph that puts these together
"""
