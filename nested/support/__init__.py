"""What every room needs: where to compute, files that survive, a progress line, pictures."""
