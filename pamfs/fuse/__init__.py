"""FUSE requests and replies; only this package and ``app`` import pyfuse3."""
