"""How a credential is checked out of a PAM, kept, and checked in again."""
