"""Measures a server: clients send requests over HTTP and note when text arrives."""
