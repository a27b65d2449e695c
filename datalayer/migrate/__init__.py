"""Bringing the database up to the models, additively: nothing that holds data is dropped, renamed or narrowed."""
