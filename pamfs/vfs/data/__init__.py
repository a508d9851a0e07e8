"""What open files hold: handles, and the writes that are not acknowledged."""
