"""One file a check: a function of (message, evidence, policy) that gives a Finding, or None.

A check looks at what it is given and at nothing else: no clock, no network, no rows. What has to be looked up is
evidence and belongs to `filtering.evidence`. A new check is a file here and a line in `filtering.pipeline`.
"""
