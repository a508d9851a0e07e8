"""The law of attempts: what one account may be asked for, how often, and when."""
