"""The kernel's side: the only importer of pyfuse3 besides ``app``."""
