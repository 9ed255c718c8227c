"""The model: pure functions over a tree of arrays; Hugging Face folders in and out."""
