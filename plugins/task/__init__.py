"""This folder of every plugin folder: one package, that an `__init__.py` in one of them cannot take over."""

from pkgutil import extend_path

__path__ = extend_path(__path__, __name__)
