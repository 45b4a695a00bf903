"""Background text, the haystack: documents of a source, split into sentences and tokenised once, opened memory-mapped.

Bulatov et al. 2024, section 2: sentences of natural text, in their own order, hide the facts of a task.
`open_background` returns the token store of a source, `Background.passage` an exact number of tokens out of it, and
`encode_piece` encodes what is put between its sentences.
"""

from rmtkit.background.building import read_split
from rmtkit.background.encoding import encode_piece, encode_pieces, joining_prefix
from rmtkit.background.pieces import TokenPieces, TokenRows
from rmtkit.background.sources import SOURCES, SPLITS, Document, read_documents
from rmtkit.background.store import Background, open_background

__all__ = [
    "SOURCES",
    "SPLITS",
    "Background",
    "Document",
    "TokenPieces",
    "TokenRows",
    "encode_piece",
    "encode_pieces",
    "joining_prefix",
    "open_background",
    "read_documents",
    "read_split",
]
