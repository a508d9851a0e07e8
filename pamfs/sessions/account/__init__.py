"""Limits on logins of one account: back-off, retries, ledger, turn, one-time codes."""
