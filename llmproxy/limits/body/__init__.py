"""
Request bodies, read for what rules and budgets need to know of them, and left as they are.

`held` reads what is in memory, `scanner` what goes by in pieces, `form` what is multipart. Each gives a `Reading`,
and one body gives the same whichever way it is read. What another reader might see otherwise is AmbiguousBody.
"""
