"""The user's images: files, folders, arrays, splits, and how they become the model's input."""
