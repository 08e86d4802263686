"""Every override of gunicorn."""
