"""What a file says beside its pixels, and the directories and chunks that hold it."""
