"""Turns files, images and messages into prompts."""
