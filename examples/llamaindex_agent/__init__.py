"""A LlamaIndex app before and after its agent became an orchestrator."""
