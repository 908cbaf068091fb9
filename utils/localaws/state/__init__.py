"""What is on disk: records, the processes that were started, and where all of it lies."""
