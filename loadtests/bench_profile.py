"""x"""


async def run(seconds: float) -> dict:
    """x"""
