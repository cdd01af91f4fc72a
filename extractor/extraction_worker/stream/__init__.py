"""Between source and sink: conversion of batches, memory admission and the worker threads.

May import ``source`` and ``sink``. Batches come from ``source.reader`` and leave to ``sink`` encoders.
"""
