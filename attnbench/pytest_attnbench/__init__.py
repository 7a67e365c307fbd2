"""The laws as pytest tests, one for each law, in three lines:

    import pytest

    @pytest.mark.attnbench("scoring=mine", temperature=2)
    def test_it_obeys(law): ...

What follows the component's name are its options, the defaults if none are.

pytest loads this at every start, wherever attnbench is installed: it is installed as a package of its own, not as a
part of attnbench, so that attnbench, and torch with it, is imported only by someone who has such a test.
"""

from __future__ import annotations

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    says = "hold a registered component to the laws, one test each, its argument `law`"
    config.addinivalue_line("markers", f'attnbench("KIND=NAME", OPTION=VALUE): {says}')


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make a test for each law of the component's kind."""
    marker = metafunc.definition.get_closest_marker("attnbench")
    if marker is None:
        return
    from attnbench.contract import LAWS, laws_for

    where = metafunc.definition.nodeid
    kind, _, name = str(marker.args[0]).partition("=") if marker.args else ("", "", "")
    if kind not in LAWS or not name:
        wanted = "scoring=NAME, attention=NAME or task=NAME"
        pytest.fail(f'{where}: no component is named: write @pytest.mark.attnbench("{wanted}")', pytrace=False)
    if "law" not in metafunc.fixturenames:
        pytest.fail(f"{where}: it takes no argument `law`: write `def test_it_obeys(law): ...`", pytrace=False)
    metafunc.parametrize("law", list(laws_for(kind)))


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> None:
    """Judge before the test's own lines, which may be none."""
    marker = pyfuncitem.get_closest_marker("attnbench")
    if marker is None:
        return
    from attnbench import UsageError
    from attnbench.contract import check
    from attnbench.registry import Registry

    kind, _, name = marker.args[0].partition("=")
    registry = Registry.load()
    try:
        component = registry.get(kind, name)
    except UsageError as error:
        failed = "".join(f"\n{failure}" for failure in registry.failures)
        pytest.fail(f"{error}\nIs its package installed? pip install -e .{failed}", pytrace=False)
    law = str(pyfuncitem.callspec.params["law"])
    try:
        (finding,) = check(component, registry, laws=[law], options=marker.kwargs)
    except UsageError as error:  # of an option
        pytest.fail(str(error), pytrace=False)
    if finding.status in ("excused", "skipped"):
        pytest.skip(f"{finding.status}: {finding.detail}")
    if finding.status == "broken":
        pytest.fail(f"{marker.args[0]} breaks '{finding.law}': {finding.detail}", pytrace=False)
