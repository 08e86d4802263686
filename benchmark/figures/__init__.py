"""Numbers out of samples."""
