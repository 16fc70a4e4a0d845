"""Helper library of the Hyperfitting course: each module answers one question, and its docstring says which."""

from importlib.metadata import version

__version__ = version("hyperfit-course")
