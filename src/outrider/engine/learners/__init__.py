"""Learners: the option `learn`, and the requests that learners are told about."""
