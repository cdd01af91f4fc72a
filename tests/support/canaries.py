"""Values that are planted, and looked for wherever something is left."""

import base64
import json
import urllib.parse
from pathlib import Path


def forms(canary: str) -> set[bytes]:
    """Return a canary as it is, and as others would write it."""
    raw = canary.encode()
    found = {raw, raw.hex().encode(), raw.hex().upper().encode(), json.dumps(canary)[1:-1].encode()}
    found |= {urllib.parse.quote(canary).encode(), urllib.parse.quote_plus(canary).encode()}
    found |= {repr(canary)[1:-1].encode(), canary.replace("'", "''").encode()}
    # The three ways in which base64 may begin within a longer text, without the ends that depend on neighbours.
    found |= {base64.b64encode(b"." * shift + raw)[4:-4] for shift in range(3)}
    return found


class Evidence:
    """What was left somewhere, by the place's name."""

    def __init__(self) -> None:
        self.places: dict[str, bytes] = {}

    def add(self, place: str, data: bytes | str) -> None:
        """Note what a place has, after what it had before."""
        self.places[place] = self.places.get(place, b"") + (data.encode() if isinstance(data, str) else data)

    def add_tree(self, root: Path, *, without: Path | None = None) -> None:
        """Note the files below a folder."""
        for path in root.rglob("*"):
            if path.is_file() and (without is None or without not in path.parents):
                self.add(str(path.relative_to(root)), path.read_bytes())

    def holding(self, canary: str) -> set[str]:
        """Return the places in which a canary is."""
        return {place for place, data in self.places.items() if any(form in data for form in forms(canary))}
