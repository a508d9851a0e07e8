"""SSH: dialing a proxy, its host key, and the login."""
