"""Mounts over lines that fail on command: measured, tested and soaked."""
