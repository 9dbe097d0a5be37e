"""A module whose import kills the template."""

import os

os._exit(9)
