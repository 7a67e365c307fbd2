"""The folders here are packages of their own: they are tested where they are installed, see test_packaging.py."""

collect_ignore_glob = ["attnbench-*"]
