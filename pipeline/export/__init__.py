"""Exports a trained model in formats that do not need this package: images in, probabilities out.

write.py                writes an export atomically, and verifies its predictions
formats.py              the table of formats, and the detection of a path's format
saved_model.py          the SavedModel format
onnx_file.py            the ONNX format
keras_file.py           the .keras format
safetensors_folder.py   the safetensors format
metadata.py             metadata of an export: classes, preprocessing, architecture
exported.py             a loaded model, independent of its format
file_predictions.py     predictions for image files
saved_model_checks.py   checks an untrusted SavedModel before it is loaded
keras_checks.py         checks an untrusted .keras file before it is loaded
onnx_checks.py          checks an untrusted ONNX file before it is loaded
operations.py           operations and classes that exports use
packages.py             packages that a format needs
run_comparison.py       selects the images that verify an export, and the run's predictions
sample_images.py        sample images that verify an export without a data set
"""
