"""The tree that the kernel sees; it knows no network and no PAM."""
