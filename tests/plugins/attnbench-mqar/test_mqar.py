import pytest


@pytest.mark.attnbench("task=mqar")
def test_it_obeys(law): ...
