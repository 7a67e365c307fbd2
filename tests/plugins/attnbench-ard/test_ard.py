import pytest


@pytest.mark.attnbench("scoring=ard")
def test_it_obeys(law): ...
