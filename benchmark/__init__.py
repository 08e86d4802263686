"""llm-benchmark: measures the proxy from outside; nothing here imports the application."""
