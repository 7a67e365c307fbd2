"""What the tests of task=imdb share."""

from collections.abc import Callable

import pytest
from attnbench.plugins.task.imdb import Imdb


@pytest.fixture
def prepare() -> Callable[..., Imdb]:
    """Make a small task of the made-up reviews, prepared."""

    def make(**options):
        task = Imdb(embed_dim=8, **options)
        task.prepare()
        return task

    return make
