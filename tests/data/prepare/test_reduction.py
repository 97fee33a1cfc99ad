"""`vit prepare --max-side`: large images are reduced, and others stay as they are."""

import io

import numpy as np
import pytest
from PIL import Image

from pipeline.config import DataConfig
from pipeline.data.encode import Reduction, encode_image
from pipeline.data.sources.records import read_facts
from pipeline.data.sources.source import open_source
from pipeline.errors import DataError
from tests.data.decode.test_decoders import encoded, picture
from tests.data.prepared import in_this_process, make_folder, prepare_into

REDUCTION = Reduction(48, 92)


def pixels_of(content):
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize(
    ("size", "expected"), [((96, 60), (48, 30)), ((60, 200), (14, 48)), ((49, 3), (48, 3))]
)
def test_the_longer_side_is_reduced_and_the_proportions_stay(kind, size, expected):
    content = encoded(picture(*size), kind)
    stored = encode_image(content, 10**6, REDUCTION)
    assert (stored.reduced, stored.converted, stored.content[:3]) == (True, False, b"\xff\xd8\xff")
    assert stored.pixels.shape == (*expected, 3)
    exact = Image.fromarray(pixels_of(content).astype(np.uint8))
    exact = np.asarray(exact.resize(expected[::-1], Image.Resampling.LANCZOS)).astype(int)
    assert np.abs(stored.pixels.astype(int) - exact).mean() < 1.5
    # What quality 92 costs. With colors at half the resolution, it would be 12.
    assert np.abs(pixels_of(stored.content) - stored.pixels).mean() < 6


def test_a_higher_quality_is_closer_and_larger():
    content = encoded(picture(96, 60), "PNG")
    low, high = (encode_image(content, 10**6, Reduction(48, quality)) for quality in (50, 95))
    errors = [np.abs(pixels_of(one.content) - one.pixels).mean() for one in (low, high)]
    assert errors[1] < errors[0]
    assert len(low.content) < len(high.content)


@pytest.mark.parametrize("size", [(48, 48), (48, 2), (7, 9)])
def test_images_of_that_size_keep_their_bytes(size):
    content = encoded(picture(*size), "JPEG")
    stored = encode_image(content, 10**6, REDUCTION)
    assert (stored.content, stored.reduced) == (content, False)


def test_a_turned_image_is_stored_upright():
    exif = Image.Exif()
    exif[0x0112] = 6
    content = encoded(picture(60, 96), "JPEG", exif=exif)
    stored = encode_image(content, 10**6, REDUCTION)
    assert stored.pixels.shape == (48, 30, 3)
    assert Image.open(io.BytesIO(stored.content)).getexif().get(0x0112) is None


def test_a_reduced_set_trains_and_another_reduction_is_another_set(tmp_path):
    config = make_folder(tmp_path / "images", per_class=2, size=(90, 60), test=1)
    out = tmp_path / "out"
    with in_this_process():
        prepare_into(out, config, reduction=REDUCTION)
        facts = read_facts(out)
        assert (facts.reduced, facts.converted, facts.largest) == (9, 0, (48, 32))
        source = open_source(DataConfig(source="records", path=str(out)), 0)
        assert pixels_of(source.splits["train"].content(0)).shape == (48, 32, 3)
        assert prepare_into(out, config, reduction=REDUCTION) == facts
        for other in (None, Reduction(48, 50), Reduction(64, 92)):
            with pytest.raises(DataError, match="another --max-side, --quality or --raw"):
                prepare_into(out, config, reduction=other)


def test_shards_of_another_reduction_are_written_again(tmp_path):
    config = make_folder(tmp_path / "images", per_class=2, size=(90, 60), test=1)
    out = tmp_path / "out"
    with in_this_process():
        prepare_into(tmp_path / "expected", config, reduction=Reduction(64, 92))
        prepare_into(out, config, reduction=REDUCTION)
        # As an attempt that was interrupted before its last file.
        reports = out / ".prepare"
        assert not reports.exists()
        (out / "dataset.json").unlink()
        prepare_into(out, config, reduction=Reduction(64, 92))
    assert read_facts(out) == read_facts(tmp_path / "expected")
