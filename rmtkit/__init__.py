"""rmtkit: Recurrent Memory Transformers and BABILong, from papermill notebooks or from Python (arXiv 2402.10790)."""

__version__ = "0.1.0"


def __getattr__(name: str):
    """Load `load_reference` when it is asked for: `import rmtkit` stays light."""
    if name != "load_reference":
        raise AttributeError(f"module 'rmtkit' has no attribute {name!r}")
    from rmtkit.reference import load_reference

    return load_reference
