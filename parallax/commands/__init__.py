"""The sub-commands of `parallax`, one module each."""
