"""From the user's data to batches of tensors and back."""
