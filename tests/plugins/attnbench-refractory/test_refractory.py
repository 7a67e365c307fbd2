import pytest


@pytest.mark.attnbench("attention=refractory")
def test_it_obeys(law): ...
