"""What the tests of the laws share."""

from collections.abc import Iterator

import pytest
from jaxtyping import config

from attnbench.registry import Registry


@pytest.fixture(autouse=True)
def plain_signatures() -> Iterator[None]:
    """Shapes are a law here; the checker of signatures would speak first, and no compiler sees through it."""
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)


@pytest.fixture(scope="module")
def registry() -> Registry:
    return Registry.load()
