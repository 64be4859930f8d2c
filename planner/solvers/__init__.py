"""Problem -> Solution with a proven bound: one solver per file."""
