"""Its presence puts this folder on the path, so that tests of any room can import `handmade`."""
