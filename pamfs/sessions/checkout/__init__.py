"""Credentials are checked out of a PAM, kept, and checked in again."""
