"""`toolorch` in a process of its own."""

from toolorch_integrations.cli import app

if __name__ == "__main__":
    app()
