"""What a file says besides its pixels, and the directories and chunks that hold it."""
