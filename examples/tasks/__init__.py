"""A small policy for the synthesised tasks: its training from nothing, its evaluation, its weights."""
