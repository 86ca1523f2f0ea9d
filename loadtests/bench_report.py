"""x"""


def report(known):
    """x"""
