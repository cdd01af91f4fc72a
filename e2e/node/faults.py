"""Faults on demand: parts of a node that go silent and come back, or die."""

import signal

from e2e.node.errors import NodeError
from e2e.node.processes import Process
from e2e.node.state import Layout


def silence(layout: Layout, components: tuple[str, ...] = ("kubelet",)) -> None:
    """Stop components where they are: without its kubelet a node is lost to the cluster, yet its containers go on."""
    for component in components:
        _component(layout, component).send(signal.SIGSTOP)


def resume(layout: Layout, components: tuple[str, ...] = ("kubelet",)) -> None:
    """Let silenced components go on."""
    for component in components:
        _component(layout, component).send(signal.SIGCONT)


def crash(layout: Layout, component: str) -> None:
    """End a component at once; the node starts it again after a second."""
    _component(layout, component).send(signal.SIGKILL)


def init_process(layout: Layout) -> Process:
    """Return process 1 of a node, as the host sees it.

    Raises
    ------
    NodeError
        If the node doesn't run.
    """
    launcher = Process.read(layout.init_file)
    children = launcher.children() if launcher and launcher.runs else {}
    if not children:
        raise NodeError(f'the node of cluster "{layout.name}" does not run')
    return next(iter(children.values()))


def _component(layout: Layout, name: str) -> Process:
    running = init_process(layout).children()
    if name not in running:
        raise NodeError(f'cluster "{layout.name}" has no component {name}; it runs {", ".join(sorted(running))}')
    return running[name]
