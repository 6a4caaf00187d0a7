"""Assets, and a folder for each database that is backed up."""
