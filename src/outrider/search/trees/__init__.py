"""Strategies that grow a tree of partial texts, and expand the most promising one."""
