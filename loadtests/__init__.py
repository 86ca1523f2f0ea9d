"""Benchmarks and load tests. Everything here talks to processes on this machine that it started itself."""
