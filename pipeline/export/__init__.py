"""A trained model as one that needs none of this package: images in, probabilities out.

facts.py               what stands beside every export: classes, preprocessing, architecture
exported.py            a loaded export, whatever its format; a run's own model in the same form
operations.py          of what exports consist
foreign_graph.py  foreign_keras.py  foreign_onnx.py     refuse what exports do not have
saved_model.py  onnx_file.py  keras_file.py  safetensors_folder.py      a format each
formats.py             the table of them; which one a path holds
packages.py            what a format needs to be installed
sample_images.py       images that an export is compared on without a data set
write.py               writes one beside its place, compares it with the run, and puts it there
answers.py             what it says of image files, in their order
"""
