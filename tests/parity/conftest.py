"""CLIP's vocabulary, unpacked once."""

import pytest
from references import unpack_vocabulary


@pytest.fixture(scope="session")
def clip_bpe(tmp_path_factory):
    """A folder with `vocab.json` and `merges.txt`."""
    return unpack_vocabulary(tmp_path_factory.mktemp("clip_bpe"))
