"""Model files: located, recognised, read and written. Untrusted input stays in this package."""
