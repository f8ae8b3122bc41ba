"""The table: every compared system trained for an equal time, measured alike, in one table."""
