"""Learning level 4, and racing what was learned."""
