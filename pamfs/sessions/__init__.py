"""Sessions with devices: which programs may open one, and how long it lasts."""
