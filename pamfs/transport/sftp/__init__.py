"""The SFTP wire: the files of a device over one SSH connection."""
