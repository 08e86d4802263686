"""What runs the application in a process: gevent's own server or gunicorn, background work, and the way to stop."""
