"""The extractor: reads one snapshot of a source in parallel, writes it to a sink and proves it complete.

Data flows through the packages in this order: ``stages`` (hold, plan, work, publish) drive ``source`` (what is
read), ``stream`` (bounded memory, threads), ``sink`` (what is written) and ``verify`` (the proof); ``report``
and ``cli`` tell people about it. It may import ``extraction_contract``; it never imports the operator.
"""
