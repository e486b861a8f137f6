"""The version of scalewise, apart from the package's own file, so that any module can name it."""

__version__ = "0.1.0"
