"""A user's captioned pictures: folders with metadata, folders with caption files, and tar shards."""
