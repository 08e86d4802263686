"""
gevent's own WSGI server, made for the first run on loopback.

What is overridden of it was read in gevent 26.9.0; `self_test` sees whether it still holds.
"""
