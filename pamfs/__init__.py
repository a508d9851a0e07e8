"""Mount an SSH bastion or PAM proxy; everything below it is files."""
