"""The version of the package, which run directories note."""

__version__ = "0.1.0"
