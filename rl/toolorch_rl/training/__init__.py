"""Training a policy on captured runs, with TRL underneath."""
