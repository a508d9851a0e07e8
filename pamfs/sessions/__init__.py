"""Sessions with devices: which programs may open one, login, leases, and the end."""
