"""What operators may do, each change one transaction with its line in the audit trail, and what enforces it later."""
