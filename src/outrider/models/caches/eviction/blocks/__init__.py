"""Policies that store all rows and read blocks of old ones."""
