"""rmtkit: Recurrent Memory Transformers and BABILong, from papermill notebooks or from Python (arXiv 2402.10790)."""

__version__ = "0.1.0"
