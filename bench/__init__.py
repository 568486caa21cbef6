"""How fast fastrnn is beside its peers, and how near to what the machine can do.

`cases` says what is measured, `workload` draws one setup for all `providers`, `gate` refuses to
time what computes something else, `timing` lets the providers take turns, `limits` and `roof` say
what the machine could do at best, and `report` writes it all down. `bench_speed` is the suite that
pytest runs; ``make bench`` is the way to run it.
"""
