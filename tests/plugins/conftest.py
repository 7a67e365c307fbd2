"""What the tests of plugins share.

The folders here are packages of their own: they are tested where they are installed, see test_packaging.py.
"""

from collections.abc import Iterator

import pytest
from jaxtyping import config

collect_ignore_glob = ["attnbench-*"]


@pytest.fixture
def plain_signatures() -> Iterator[None]:
    """Calls go unchecked: a user has no checker of shapes, and no compiler sees through it."""
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)
