"""One file = one source of questions with their gold answers; the file's name is the source's name."""
