"""A stand-in for OpenAI's API on a real socket. It sees nothing of the application."""
