"""The composition root: builds the parts, mounts, and takes all down in order."""

from pamfs.app.process import serve

__all__ = ["serve"]
