"""What the tests with real processes share."""

import pytest

from tests.parallel.launches import Launches
from tests.parallel.members import Members


@pytest.fixture
def vit():
    """Starts launchers, and sees that no process of theirs is left."""
    launches = Launches()
    yield launches
    launches.clean_up()


@pytest.fixture
def members(vit, tmp_path):
    """Starts elastic jobs, whose workers write what they see."""
    return Members(vit, tmp_path)
