"""HTML reports of a run, of an evaluation, and of several runs. They open without a network.

write.py                gathers what a report shows, and writes it
run_examples.py         applies the best weights to the data of a run
comparison.py           writes the page that compares several runs
run_facts.py            everything that is known about a run
page.py, templates/     the Jinja environment, and the templates and CSS of the pages
run_page.py, comparison_page.py, evaluation_page.py, prediction_gallery.py   the facts of each page
curves.py, line_chart.py, axis.py   charts over the steps
prediction_metrics.py   accuracy by class, confusions and calibration of a set of predictions
worker_timeline.py      the workers of an elastic job over time
confusion.py, per_class.py, calibration.py   its parts
example_images.py       images inside a page
training_preview.py     examples of a prepared set, augmented and cut into patches
tensorboard_images.py   the pictures of a report in the format of TensorBoard
"""
