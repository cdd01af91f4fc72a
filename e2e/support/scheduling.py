"""Which tests a worker of xdist gets together."""

from pathlib import PurePosixPath

from xdist.scheduler import LoadFileScheduling

WHOLE = {"chaos"}
"""Folders whose tests share one world, which takes longer to make than they do."""


class ByFile(LoadFileScheduling):  # type: ignore[misc]  # without types
    """Deals out files, and the folders of :data:`WHOLE` as a whole."""

    def _split_scope(self, nodeid: str) -> str:
        file: str = super()._split_scope(nodeid)
        folder = PurePosixPath(file).parent
        return str(folder) if folder.name in WHOLE else file
