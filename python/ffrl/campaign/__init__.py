"""Campaigns: many runs, trained and measured by one command that may be killed and goes on where it was."""
