"""What is known of names: inodes, listings, the two synthetic levels; no I/O."""
