"""The user's model: creating it, loading its weights, merging its branches, finding its logits."""
