"""What the tests with real processes share."""

import pytest

from tests.parallel.launches import Launches


@pytest.fixture
def vit():
    """Starts launchers, and sees that no process of theirs is left."""
    launches = Launches()
    yield launches
    launches.clean_up()
