"""Kinds of stores, views of stores, and stores that combine others."""
