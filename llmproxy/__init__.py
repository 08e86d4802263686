"""The domain of llm-proxy: no Flask, no SQLAlchemy, no environment variables."""
