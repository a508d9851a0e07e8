"""An embedded PAM: terminal proxy, vault, devices; real protocols on loopback."""
