"""kopf without the Kubernetes client.

kopf imports it, where it is installed, to understand its objects if it is given some. We give it none, and the client
is half of what kopf imports.
"""

import sys
from typing import Any, cast

_CLIENT = "kubernetes"

# A name that stands for nothing can't be imported.
cast("dict[str, Any]", sys.modules).setdefault(_CLIENT, None)
try:
    import kopf
finally:
    if sys.modules[_CLIENT] is None:
        del sys.modules[_CLIENT]

__all__ = ["kopf"]
