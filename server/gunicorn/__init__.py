"""Every override of gunicorn. Read in 27.0.1; `self_test` sees whether they still hold."""
