"""Names of targets, as paths and as SSH user names."""
