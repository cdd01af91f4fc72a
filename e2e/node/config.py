"""The configuration file of `kind create cluster --config`, as far as a single node can honour it."""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from e2e.node.errors import NodeError


@dataclass(frozen=True)
class Config:
    """What a configuration file may ask of us."""

    name: str | None = None
    image: str | None = None
    feature_gates: dict[str, bool] = field(default_factory=dict)
    runtime_config: dict[str, str] = field(default_factory=dict)


def read(source: str | None) -> Config:
    """Read a file of kind's format, or standard input for "-".

    Raises
    ------
    NodeError
        If it can't be read, or asks for something that this node can't be. Silence would make tests that pass here
        fail on kind, or the other way round.
    """
    if source is None:
        return Config()
    try:
        text = sys.stdin.read() if source == "-" else Path(source).read_text()
    except OSError as error:
        raise NodeError(f"{source}: {error.strerror}") from error
    document = _parse(text, source)
    if not isinstance(document, dict) or document.get("kind") != "Cluster":
        raise NodeError(f"{source}: not a Cluster of kind.x-k8s.io")
    for key in document.keys() - {"kind", "apiVersion", "name", "nodes", "featureGates", "runtimeConfig"}:
        raise NodeError(f"{source}: {key} isn't supported without Docker")
    nodes = document.get("nodes") or [{}]
    if len(nodes) > 1 or nodes[0].get("role", "control-plane") != "control-plane":
        raise NodeError(f"{source}: nodes: one control-plane node is all there is without Docker")
    for key in nodes[0].keys() - {"role", "image"}:
        raise NodeError(f"{source}: nodes[0].{key} isn't supported without Docker")
    return Config(
        name=document.get("name"),
        image=nodes[0].get("image"),
        feature_gates=document.get("featureGates") or {},
        runtime_config={key: str(value) for key, value in (document.get("runtimeConfig") or {}).items()},
    )


def _parse(text: str, source: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        pass
    try:
        import yaml
    except ModuleNotFoundError:
        raise NodeError(f"{source}: reading YAML needs python3-yaml (pip install PyYAML); JSON needs nothing") from None
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise NodeError(f"{source}: {error}") from error
