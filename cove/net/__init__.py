"""Networks in the kernel: bridges, links of machines, and the rules between them. It makes and
unmakes what records say, and decides nothing.
"""
