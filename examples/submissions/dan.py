everything = []
while True:
    everything.append("x" * 1_000_000)
