"""What a sweep runs on, behind one protocol (`base`). A new backend is one file, and one line in `registry`."""
