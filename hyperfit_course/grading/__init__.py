"""Grading: submitted notebooks are found and read, run in a process of their own, and checked."""
