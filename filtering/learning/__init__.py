"""Learning from mail: what the classifier reads of a message, its weights, and how they are shared."""
