"""Parallax: Perspective tables for many viewers from many servers. What users import and run.

`replication` is the contract, `replica` what node and coordinator need to hold a table, `demo` a fleet on one machine.
"""
