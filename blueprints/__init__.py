"""HTTP in, HTTP out: one blueprint per audience, over the domain in llmproxy."""
