"""HTML reports of a run, of an evaluation, and of several runs; they open without a network.

write.py                gathers a run's facts and writes its report
run_facts.py            everything that is known about a run
run_page.py, comparison_page.py, evaluation_page.py, prediction_gallery.py   the pages
curves.py, line_chart.py, axis.py   charts over the steps
evaluation.py           accuracy by class, confusions and calibration of a set of predictions
confusion.py, per_class.py, calibration.py   what it consists of
example_images.py       images inside a page
tensorboard_images.py   the report's pictures in TensorBoard's format
html.py, style.py       HTML elements, and CSS
"""
