"""Priors of codes: one file each."""
