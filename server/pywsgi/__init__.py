"""gevent's own WSGI server, made for the first run on loopback."""
