"""The study "what makes flows compose": variants of the flow, trained for equal times, measured alike, in one table."""
