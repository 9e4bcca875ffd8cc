"""Engines that run in a child process, in an environment of their own."""
