"""faiss as it is at run time: its type stubs lack half of what is used here."""

from typing import Any

import faiss as _faiss

faiss: Any = _faiss
