"""The work itself: dump, upload, verify, prune, restore.

Nothing in here knows Dagster, the command line or the settings.
"""
