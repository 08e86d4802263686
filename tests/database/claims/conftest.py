"""A ruled token in a database, and stores of other processes beside its own."""

from tests.ruled_token import bench  # noqa: F401
