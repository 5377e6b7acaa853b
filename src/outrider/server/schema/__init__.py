"""Requests as pydantic models. Answers are plain dictionaries, since they are built often."""
