"""What a response tells of itself, read beside the way and never in it."""
