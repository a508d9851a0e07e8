"""How bytes move once a session is up."""
