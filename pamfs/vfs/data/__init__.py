"""The handles of open files, and their writes that are not acknowledged."""
