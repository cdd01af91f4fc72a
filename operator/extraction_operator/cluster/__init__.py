"""The API server: what is read from it and, behind one fence, everything that is written to it.

Nothing here decides. Imports ``plan.values`` for the values that raw objects become (``parse``) and for the actions
that it carries out; replies to writes go to the store like events do.
"""
