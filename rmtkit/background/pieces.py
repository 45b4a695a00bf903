"""Token ids that are copied when they are looked at, not before: a long text as views, texts side by side as rows.

Axis letters: b batch, t tokens, s tokens of a slice.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


class TokenPieces:
    """A text (t,) made of pieces of others; it takes the memory of its pieces' descriptions, not of its tokens.

    len(), indices, slices (as arrays) and what numpy does with arrays work as on the array (t,).

    Args: pieces: arrays of token ids, one or more; views of a memory-mapped store cost nothing.
    """

    ndim = 1

    def __init__(self, pieces: Sequence[np.ndarray]):
        self.dtype = np.result_type(*{piece.dtype for piece in pieces})
        self._pieces = [piece for piece in pieces if len(piece)]
        self._ends = np.cumsum([len(piece) for piece in self._pieces], dtype=np.int64)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    @property
    def shape(self) -> tuple[int]:
        """As of an array, (t,)."""
        return (len(self),)

    def __getitem__(self, key):
        if not isinstance(key, slice):
            position = range(len(self))[key]
            return self[position : position + 1][0]
        start, stop, step = key.indices(len(self))
        if step != 1:
            return np.asarray(self)[key]
        return np.concatenate([np.empty(0, self.dtype), *self.cut(start, stop)])

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return self[:].astype(dtype or self.dtype, copy=False)

    def astype(self, dtype) -> np.ndarray:
        """Return all tokens as an array (t,)."""
        return self[:].astype(dtype)

    def tolist(self) -> list[int]:
        """Return all tokens as a list."""
        return self[:].tolist()

    def cut(self, start: int, stop: int) -> list[np.ndarray]:
        """Return views of the pieces between two positions, 0 <= start, stop <= t."""
        views = []
        first = int(np.searchsorted(self._ends, start, side="right"))
        for index in range(first, len(self._pieces)):
            piece = self._pieces[index]
            begin = int(self._ends[index]) - len(piece)
            if begin >= stop:
                break
            views.append(piece[max(0, start - begin) : stop - begin])
        return views


class TokenRows:
    """Texts side by side, read up to a position: `rows[:, start:stop]` copies that slice of each, (b, s).

    Args: texts: arrays or `TokenPieces`, (t,) or longer each;  num_tokens: t.
    """

    def __init__(self, texts: Sequence, num_tokens: int):
        self._texts = texts
        self.shape = (len(texts), num_tokens)

    def __getitem__(self, key: tuple[slice, slice]) -> np.ndarray:
        rows, columns = key
        start, stop, step = columns.indices(self.shape[1])
        return np.stack([text[start:stop:step] for text in self._texts[rows]])

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return self[:, :].astype(dtype, copy=False) if dtype else self[:, :]
