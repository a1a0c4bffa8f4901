import sys

numbers = [int(line) for line in sys.stdin]
while sum(numbers):
    pass
print(42)
