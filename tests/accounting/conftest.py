"""A ruled token in a database."""

from tests.ruled_token import bench  # noqa: F401
