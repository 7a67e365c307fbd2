import pytest


@pytest.mark.attnbench("task=count")
def test_it_obeys(law): ...
