"""The domain of llm-proxy: no Flask, no SQLAlchemy, no environment variables."""

__version__ = "0.1.0"
