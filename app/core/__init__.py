"""What every service of this kind needs, and nothing about a feature."""
