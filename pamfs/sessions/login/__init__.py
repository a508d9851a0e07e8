"""The steps of one login: host key, lease, secrets, and the connection."""
