"""Evaluation suites, scorers, rows, statistics, policies and the gate. Imports only the engine."""
