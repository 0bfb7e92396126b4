"""The command line: ``bestpixel-gpu composite``, ``explain``, ``monthly``, ``series`` and ``demo``."""
