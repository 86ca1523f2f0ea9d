"""Which kinds of users a load test has, and how many of each; known without loading Locust, which changes the whole process."""

KINDS = ("viewer", "explorer", "raw", "editor", "reconnecter")
MIX = "viewer=12,explorer=2,raw=2,editor=2,reconnecter=2"


def weights(mix: str) -> dict[str, int]:
    """Return how many there are of each kind, relative to each other; kinds of whom there are none are left out.

    Raises:
        ValueError: that is no mix.
    """
    try:
        found = {name: int(number) for name, _, number in (part.partition("=") for part in mix.split(","))}
    except ValueError:
        found = {}
    if found.keys() - set(KINDS) or min(found.values(), default=0) < 0 or not sum(found.values()):
        raise ValueError(f"--mix is {mix!r}: expected kinds and numbers as in {MIX!r}")
    return {name: number for name, number in found.items() if number}
