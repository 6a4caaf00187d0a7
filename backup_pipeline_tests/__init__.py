"""Tests; the folders mirror the modules of `backup_pipeline`."""
