"""A small shop assistant: documents, tools, enquiries, and the demo policy that orchestrates it."""
