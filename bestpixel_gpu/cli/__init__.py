"""The command line: ``bestpixel-gpu composite``, ``explain`` and ``demo``."""
