"""How other commands talk to a running mount: a socket, JSON lines both ways."""
