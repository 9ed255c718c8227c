"""One file = one published method, composed from objective/; the file's name is the method's name."""
