"""Rows and other values as bytes: never pickle, exact round trips, and nothing but a miss for hostile bytes."""
