"""One login, from the first access to an open session."""
