"""What is sent and read, and when: the load, on Locust, and what is known of each request."""
