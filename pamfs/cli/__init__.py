"""One module per command; parses and prints, decides nothing."""
