"""The gateway: orchestrators and policies behind OpenAI's protocol, with every run captured."""
