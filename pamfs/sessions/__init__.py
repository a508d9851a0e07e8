"""Who may talk to which device, and for how long."""
