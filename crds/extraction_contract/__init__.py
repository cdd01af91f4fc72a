"""The contract: models of the custom resources, the one source of the CRD YAML, its reference and the local loader.

It imports pydantic and PyYAML, nothing else of the project; worker and operator import it. Manifests come in by
:mod:`.load`, go out as frozen models (:mod:`.models`) and, with what they refer to, as :mod:`.resolve` gives them.
"""
