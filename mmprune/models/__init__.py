"""The user's model: made, its weights read and fitted, its branches merged, its answer found."""
