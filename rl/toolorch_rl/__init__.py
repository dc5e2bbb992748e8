"""Learning from captured traces: data, rewards, training."""
