import io

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import confusion_matrix
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray

from pipeline.report.tensorboard_images import write_board
from tests.report.invented import invented_run, with_pictures


@pytest.fixture
def run():
    return with_pictures(invented_run(["a", "b", "c"]), 8)


def read(folder):
    """What TensorBoard's own reader finds: the one value of each tag, and its description."""
    events = EventAccumulator(str(folder / "report")).Reload()
    found = {}
    for tag in events.Tags()["tensors"]:
        (event,) = events.Tensors(tag)
        description = events.SummaryMetadata(tag).summary_description
        found[tag] = event.step, make_ndarray(event.tensor_proto), description
    return found


def pixels(value):
    width, height, *pictures = value.tolist()
    images = [np.asarray(Image.open(io.BytesIO(picture))) for picture in pictures]
    assert {image.shape for image in images} == {(int(height), int(width), 3)}
    return images


def test_tensorboard_finds_the_pictures_at_the_step_of_the_weights(tmp_path, run):
    write_board(tmp_path, run)
    found = read(tmp_path)
    assert set(found) == {"confusion matrix", "most certain mistakes", "augmented examples"}
    assert {step for step, *_ in found.values()} == {4000}


def test_mistakes_are_enlarged_pixel_by_pixel_and_named(tmp_path, run):
    write_board(tmp_path, run)
    _, value, description = read(tmp_path)["most certain mistakes"]
    images = pixels(value)
    places = run.predictions.worst(12)
    assert len(images) == len(places) == len(description.splitlines())
    for image, expected in zip(images, run.examples.image, strict=False):
        np.testing.assert_array_equal(image[14::28, 14::28], expected)
    first = places[0]
    assert f"is {run.classes[run.predictions.label[first]]}" in description.splitlines()[0]


def test_the_matrix_is_the_darker_the_more_of_a_class_a_cell_holds(tmp_path, run):
    write_board(tmp_path, run)
    (image,) = pixels(read(tmp_path)["confusion matrix"][1])
    side = image.shape[0] // 3
    red = image[side // 2 :: side, side // 2 :: side, 0].astype(float)
    found = run.predictions
    shares = confusion_matrix(found.label, found.predicted, normalize="true")
    np.testing.assert_allclose(red, 255 - (255 - 40) * np.sqrt(shares), atol=2)


def test_augmented_examples_have_an_epoch_a_column(tmp_path, run):
    write_board(tmp_path, run)
    (image,) = pixels(read(tmp_path)["augmented examples"][1])
    scale = image.shape[1] // (4 * 8)
    small = image[::scale, ::scale]
    np.testing.assert_array_equal(small[8:16, 16:24], run.examples.augmented[1, 2])


def test_a_second_report_takes_the_place_of_the_first(tmp_path, run):
    write_board(tmp_path, run)
    write_board(tmp_path, run)
    assert len(list((tmp_path / "report").iterdir())) == 1
    assert "confusion matrix" in read(tmp_path)
