"""`llm-proxy`: what operators type instead of curl. It sees the product by its management API alone."""
