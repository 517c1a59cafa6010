"""Associative memories with pretrained weights, built from hamux.

The public names are those of `__init__.pyi`. Each is imported when it is first asked for, so that the command line
starts at once.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
