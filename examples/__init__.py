"""Small real apps that use the package."""
